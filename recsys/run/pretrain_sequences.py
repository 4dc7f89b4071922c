"""What a sequence tower learns from and by: sequences gathered from the training split, and its objective."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.config import RunConfig, SequenceTowerConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.features.contract import FeatureContract
from recsys.features.schema import ITEM_TOWER, FeatureKind
from recsys.run.streams import TRAIN, VALIDATION, scoring_stream, started
from recsys.sharding.processes import ProcessContext
from recsys.towers.sequence import SequenceTower
from recsys.towers.sequence_batches import Gathered, Jagged, SequenceStream, gather, negative_rate
from recsys.towers.sequence_pretraining import ItemAttributes, NextEventObjective
from recsys.towers.tower_spec import table_weight


@dataclass(frozen=True)
class SequenceTask:
    """Both streams of sequences, the objective, and what the training rows say of the items.

    Attributes:
        attributes: by feature, of each row of the item's table.
    """

    stream: SequenceStream
    validation: SequenceStream
    objective: NextEventObjective
    attributes: dict[str, Jagged]

    def with_attributes(self, weights: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return the tower's weights, tables (rows, D), with its items' attributes, as learnt, in the items' rows.

        Every process calls it, with {} where another one has the weights.
        """
        if self.objective.attributes is None:
            return weights
        tower = self.objective.embedding_tower
        (table,) = tower.items.features
        learnt = self.objective.attributes.of_all(self.attributes, tower.item, device)
        name = next((name for name in weights if name.endswith(table_weight(table))), None)
        return weights if name is None else weights | {name: weights[name] + learnt}


def sequence_task(
    config: RunConfig, module: SequenceTower, encoded: EncodedDataset, days: Sequence[str], context: ProcessContext
) -> SequenceTask:
    """Gather the sequences. Every process reads all rows, so that all agree on who is whose.

    Args:
        days: of the training split.
    """
    tower, contract = config.tower, encoded.contract
    assert isinstance(tower, SequenceTowerConfig)
    attributes = _attributes(contract, module.item)
    alone = replace(started(config), rank=0, world_size=1)

    def gathered(split: str, *, is_training: bool) -> Gathered:
        return gather(
            scoring_stream(config, encoded, split, alone, days=days if is_training else ()),
            user=contract.schema.user,
            events=module.events,
            item=module.item,
            attributes=attributes if is_training else (),
            num_items=contract.table_rows[contract.schema.feature(module.item).table],
            newest_only=is_training,
        )

    train, validation = gathered(TRAIN, is_training=True), gathered(VALIDATION, is_training=False)

    def stream(sequences: Jagged, *, only_last: bool) -> SequenceStream:
        return SequenceStream(
            sequences=sequences,
            rate=negative_rate(train.counts, tower.negative_power),
            item=module.item,
            attributes=train.attributes,
            most=contract.schema.feature(module.events).max_length,
            batch_size=tower.batch_size,
            num_negatives=tower.negatives,
            only_last=only_last,
            seed=tower.seed,
            device=context.device,
            rank=context.rank,
            world_size=context.world_size,
        )

    of_items = ItemAttributes(contract, attributes, tower.width) if attributes else None
    objective = NextEventObjective(module, of_items, tower.id_dropout)
    return SequenceTask(
        stream(train.sequences, only_last=False),
        stream(validation.sequences, only_last=True),
        objective.to(context.device),
        train.attributes,
    )


def _attributes(contract: FeatureContract, item: str) -> tuple[str, ...]:
    """The item tower's other sparse features; a list of users is none: it says who came, not what the item is."""
    schema = contract.schema
    users = schema.feature(schema.user).table
    return tuple(
        feature.name
        for feature in schema.used_by(ITEM_TOWER)
        if feature.kind in (FeatureKind.SPARSE, FeatureKind.SPARSE_LIST)
        and feature.name != item
        and feature.table != users
        and not feature.beside
    )
