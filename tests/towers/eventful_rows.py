"""A schema with a user's and an item's events, rows of it, and a ranker around a history tower."""

from dataclasses import dataclass
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.composition.branches import BranchProjection
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.ranker import Head, Ranker
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.interactions.cross import CrossNetwork
from recsys.interactions.fields import InteractionFields
from recsys.interactions.network import InteractionNetwork
from recsys.towers.any_tower import build_tower
from recsys.towers.tower_spec import HistoryShape, TowerSpec
from tests.small_model import SEGMENTS, spread_out

SHAPE = HistoryShape(
    key_width=4,
    factor_width=4,
    vectors_width=8,
    projection_width=3,
    reads_gaps=True,
    event_dropout=0.0,
    history_dropout=0.0,
    key_dropout=0.0,
    frozen=("vectors", "user_vectors"),
)


def eventful_schema() -> FeatureSchema:
    """A user with a city, an item, what users met and who met items, how it went, and when."""
    network, user, item = ["interaction_network"], ["user_tower"], ["item_tower"]

    def beside(name: str, leader: str, used_by: list[str], **more: Any) -> dict[str, Any]:
        return {"name": name, "kind": "dense_list", "beside": leader, "fill": 0, "used_by": used_by, **more}

    return FeatureSchema.from_document(
        {
            "name": "eventful",
            "segment": "activity",
            "segments": list(SEGMENTS),
            "label": "liked",
            "time": "at",
            "user": "user_id",
            "item": "item_id",
            "features": [
                {"name": "user_id", "kind": "sparse", "used_by": network},
                {"name": "city", "kind": "sparse", "used_by": network},
                {"name": "item_id", "kind": "sparse", "used_by": network},
                {"name": "met", "kind": "sparse_list", "table": "item_id", "max_length": 6, "used_by": user},
                beside("met_value", "met", user),
                beside("met_age", "met", user, holds="age_days"),
                {"name": "by", "kind": "sparse_list", "table": "user_id", "max_length": 6, "used_by": item},
                {"name": "by_city", "kind": "sparse_list", "table": "city", "beside": "by", "used_by": item},
                beside("by_value", "by", item),
                beside("by_age", "by", item, holds="age_days"),
            ],
        }
    )


def eventful_contract() -> FeatureContract:
    """The schema with 5 users, 4 cities and 6 items, the unknown row among each."""
    rows = {"user_id": 5, "city": 4, "item_id": 6}
    return FeatureContract(eventful_schema(), rows, {table: f"{table}-1" for table in rows}, scaling={})


@dataclass(frozen=True)
class EventfulRow:
    """One row; events are (id, value, age in days), or (id, city, value, age)."""

    user: int
    city: int
    item: int
    met: tuple[tuple[int, float, float], ...]
    by: tuple[tuple[int, int, float, float], ...]
    segment: int
    label: int


EVENTFUL = (
    EventfulRow(1, 2, 3, ((3, 0.5, 0.001), (2, -1.0, 5.0)), ((2, 1, 0.3, 40.0),), 0, 1),
    EventfulRow(2, 1, 1, (), ((1, 2, 1.0, 0.5), (3, 3, -0.7, -2.0), (4, 1, 0.2, 0.02)), 2, 0),
    EventfulRow(0, 3, 5, ((1, 1.5, -0.2),), (), 1, 1),
    EventfulRow(4, 1, 0, ((5, -0.4, 8.0), (1, 0.9, 2.0), (4, 0.1, 0.3)), ((1, 2, -1.1, 3.0),), 0, 0),
)
"""Histories of length 0, 1 and more on either side, ids that are unknown, and ages in the future."""


def eventful_batch(rows: tuple[EventfulRow, ...] = EVENTFUL) -> Batch:
    """Put rows into a batch."""
    bags = {
        "user_id": [[row.user] for row in rows],
        "city": [[row.city] for row in rows],
        "item_id": [[row.item] for row in rows],
        "met": [[event[0] for event in row.met] for row in rows],
        "by": [[event[0] for event in row.by] for row in rows],
        "by_city": [[event[1] for event in row.by] for row in rows],
    }
    met, by = [event for row in rows for event in row.met], [event for row in rows for event in row.by]
    return Batch(
        dense=torch.empty(len(rows), 0),
        sparse=KeyedJaggedTensor(
            keys=list(bags),
            values=torch.tensor([i for of_key in bags.values() for bag in of_key for i in bag], dtype=torch.int64),
            lengths=torch.tensor([len(bag) for of_key in bags.values() for bag in of_key], dtype=torch.int32),
            length_per_key=[sum(map(len, of_key)) for of_key in bags.values()],
        ),
        segment=torch.tensor([row.segment for row in rows]),
        label=torch.tensor([float(row.label) for row in rows]),
        weight=torch.ones(len(rows)),
        lists={
            "met_value": torch.tensor([event[1] for event in met]),
            "met_age": torch.tensor([event[2] for event in met]),
            "by_value": torch.tensor([event[2] for event in by]),
            "by_age": torch.tensor([event[3] for event in by]),
        },
        leaders={"met_value": "met", "met_age": "met", "by_value": "by", "by_age": "by"},
        segment_counts=tuple(sum(row.segment == segment for row in rows) for segment in range(len(SEGMENTS))),
    )


def eventful_ranker(shape: HistoryShape = SHAPE, seed: int = 0) -> Ranker:
    """A ranker of a history tower and a crossing, side by side, with parameters that are all in use."""
    contract = eventful_contract()
    torch.manual_seed(seed)
    tower = build_tower(TowerSpec.reading_history(contract.schema, shape), contract)
    fields = InteractionFields(contract, 4, has_tower_field=False)
    network = InteractionNetwork(fields, CrossNetwork(fields.num_fields, 4, 1), hidden_widths=[5], dropout=0.0)
    composition = ParallelComposition(BranchProjection(tower.output_width, network.output_width, 6), ConcatJoin(6))
    ranker = Ranker(tower, network, composition, Head(composition.output_width, [4], 0.0, None))
    spread_out(ranker)
    return ranker
