"""Imported vectors in a run: which of its rows they reach, and whether the ranker reads them. The run's own receipt."""

import json
from collections.abc import Sequence

import torch
from scipy import sparse
from torch import nn

from recsys.composition.ranker import Ranker
from recsys.config import ImportedTowerConfig, RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import TrainingError, UsageError
from recsys.evaluation.split_evaluation import evaluation_mode
from recsys.features.batch import Batch
from recsys.features.schema import ITEM_TOWER, FeatureKind
from recsys.inspection.item_rows import ids_beside_items, rows_of_items
from recsys.run.streams import TEST, TRAIN, VALIDATION
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import gathered
from recsys.sharding.state_digests import digests_of, whole_digests
from recsys.towers.artifact import TowerArtifact
from recsys.towers.import_receipt import Traffic
from recsys.towers.other_vectors import with_other_vectors
from recsys.towers.tower_spec import TowerKind
from recsys.tracking.run import TrackedRun
from recsys.training.modes import TABLES, TOWER, learning_halves

RECEIPT = "import_receipt.json"
SPLITS = (TRAIN, VALIDATION, TEST)
"""Whose rows the receipt tells of, where they have any."""


def traffic_of(encoded: EncodedDataset) -> Traffic:
    """Count, in every split and segment, the rows of each item."""
    rows = {split: rows_of_items(encoded, split) for split in SPLITS if encoded.rows(split)}
    return Traffic(encoded.contract.schema.segments, rows)


def attributes_of(encoded: EncodedDataset) -> sparse.csr_matrix:
    """Return which attributes each item has in training, (rows of the table, A).

    They are the ids that the schema gives to the item tower, but for those of users and items.

    Raises:
        UsageError: there are none.
    """
    schema = encoded.contract.schema
    apart = {schema.feature(schema.item).table, schema.feature(schema.user).table}
    found = [each for each in schema.used_by(ITEM_TOWER) if each.kind is not FeatureKind.DENSE]
    names = [each.name for each in found if each.table not in apart]
    if not names:
        raise UsageError(
            f"`tower.missing_vectors=attributes`: schema `{schema.name}` gives the item tower no ids but the item's "
            "own. Give it attributes (`used_by: [item_tower]`), or choose mean, zero or learned."
        )
    return ids_beside_items(encoded, TRAIN, names)


def require_learning(config: RunConfig) -> None:
    """Refuse vectors that are to be learned of a tower whose tables never learn.

    Raises:
        UsageError: names both settings.
    """
    tower, mode = config.tower, config.training_mode
    if not isinstance(tower, ImportedTowerConfig) or tower.missing_vectors != "learned":
        return
    if not any(TABLES in learning_halves(stage) for stage in mode.stages):
        raise UsageError(
            f"`tower.missing_vectors=learned` draws vectors at random, and in `training_mode={mode.name}` the tower's "
            "tables never learn. Choose mean, zero or attributes, or a training mode in which they do."
        )


def attach_receipt(tracked: TrackedRun, artifact: TowerArtifact, wrapped: nn.Module, probes: Sequence[Batch]) -> None:
    """Check that an imported table came whole into the ranker and is read there, and attach its receipt to the run.

    Nothing is done for other towers. With several processes every one calls it.

    Args:
        probes: some rows of each segment, (n,) each.

    Raises:
        TrainingError: the table is not what was imported, or has no part in any logit.
    """
    if artifact.spec.kind is not TowerKind.IMPORTED:
        return
    ((name, table),) = artifact.weights.items()
    inventory = inventory_of(wrapped)
    # Summed where the rows lie: no process needs the whole table again.
    imported, found = digests_of({name: table})[name], whole_digests(inventory.under(TOWER))[f"{TOWER}.{name}"]
    precision = inventory.tables[f"{TOWER}.{name}"].dtype
    if table.dtype == precision and imported != found:
        raise TrainingError(
            f"The table `{name}` had the digest {imported} when it was imported and has {found} in the sharded ranker: "
            "its rows were changed on the way. Import the tower again; if that is no help, the sharding is at fault."
        )
    module = inventory.module
    assert isinstance(module, Ranker)
    # All of them, since a process that looks up waits for the others.
    reads = [reads_tables(module, batch) for batch in probes]
    if not any(gathered(any(reads))):
        raise TrainingError(
            f"The imported table `{name}` is not reached: other vectors in its place change no logit of "
            f"{sum(map(len, probes))} rows of {len(probes)} segments. Let the composition send some segment's rows "
            "through the embedding tower, or train without an imported tower."
        )
    sharding = {"digest": imported, "digest_after_sharding": found, "precision_after_sharding": str(precision)}
    tracked.attach(RECEIPT, json.dumps({**artifact.provenance, **sharding, "is_reached": True}, indent=2))


def reads_tables(ranker: Ranker, batch: Batch) -> bool:
    """Return whether other vectors from the tower's tables would change a logit of the batch."""
    with evaluation_mode(ranker):
        other = with_other_vectors(batch, ranker.embedding_tower.get_submodule("ebc"))
        return not torch.equal(ranker(batch), ranker(other))
