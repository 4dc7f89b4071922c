"""A finished run's served model: written with the run, loaded by `score`, `evaluate` and `daily`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from recsys.artifacts.export import export_ranker
from recsys.build import describe_ranker
from recsys.build_objective import ORDINAL
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.datasets.decode import example_rows
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.table_layout import load_table_layout
from recsys.sharding.divided_state import divided_state
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import gathered
from recsys.sharding.whole_state import whole_in_first
from recsys.towers.artifact import TowerArtifact
from recsys.towers.version import TowerVersion, version_of
from recsys.training.modes import TOWER

MODEL = "model"
TOWER_VERSION = "tower_version"
"""Of a served model's description: which tower it holds."""


def export_run(
    folder: Path, config: RunConfig, artifact: TowerArtifact, wrapped: nn.Module, encoded: EncodedDataset
) -> tuple[Path, TowerVersion]:
    """Write the run's ranker, with the weights it has now, as a served model in the run's folder.

    Every process calls it; one of them writes.

    Args:
        artifact: the tower that the run began with.

    Returns:
        Where the model is, and which tower it holds.
    """
    contract = encoded.contract
    vocabularies = {table: encoded.vocabulary(table) for table in contract.table_rows}
    # Whatever its tables learned in, a served model is float32, to which float16 goes without a change.
    held = whole_in_first(divided_state(wrapped))
    weights = {name: each.float() if each.is_floating_point() else each for name, each in held.items()}
    prefix = f"{TOWER}."
    tower = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
    version: TowerVersion = gathered(version_of(artifact).after(tower) if weights else None)[0]
    if not weights:
        return folder / MODEL, version  # the first process, which has them, writes
    ranker = unwrapped(wrapped)
    assert isinstance(ranker, Ranker)
    description = describe_ranker(
        config.network,
        config.composition,
        artifact.spec,
        adapter_rank=config.training_mode.adapter_rank,
        is_ordinal=config.training.objective == ORDINAL,
        rungs=ranker.rungs,
    )
    with prepared_schema_file(encoded) as table:
        layout = load_table_layout(table, contract.schema) if table else None
        export_ranker(
            folder / MODEL,
            weights=weights,
            description={**description, TOWER_VERSION: version.to_document()},
            rebuild="recsys.build:rebuild_ranker",
            contract=contract,
            vocabularies=vocabularies,
            example=example_rows(encoded, "validation", layout),
            table=table,
        )
    return folder / MODEL, version


@contextmanager
def prepared_schema_file(encoded: EncodedDataset) -> Iterator[Path | None]:
    """The schema file as it was when the rows were prepared by its `table:` block; None where they were not."""
    # The user's own file may say something else by now.
    text = encoded.manifest.source.get("schema_file")
    if not text:
        yield None
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "table.yaml")
        path.write_text(text, encoding="utf-8")
        yield path
