"""A schema, rows and a ranker small enough to be checked by hand: shared by the tests of the model wing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.composition.branches import BranchProjection, Composition
from recsys.composition.ranker import Head, Ranker
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.schema import FeatureSchema
from recsys.interactions.cross import CrossNetwork
from recsys.interactions.crossing import Crossing
from recsys.interactions.fields import InteractionFields
from recsys.interactions.first_order import FirstOrder
from recsys.interactions.network import InteractionNetwork
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.tower_spec import TowerSpec

# Tables are 4 wide, the least that the fused kernels take.
TOWER_WIDTH, FIELD_WIDTH, JOINED_WIDTH, NETWORK_WIDTH = 4, 4, 5, 6
SEGMENTS = ("new", "light", "heavy")


def small_schema() -> FeatureSchema:
    """Two dense features, a user, an item, a brand for the tower alone, and a list that shares the item's table."""
    user, item, network = "user_tower", "item_tower", "interaction_network"
    return FeatureSchema.from_document(
        {
            "name": "small",
            "segment": "activity",
            "segments": list(SEGMENTS),
            "label": "clicked",
            "time": "at",
            "user": "user_id",
            "item": "item_id",
            "features": [
                {"name": "age", "kind": "dense", "used_by": [user, network]},
                {"name": "user_id", "kind": "sparse", "used_by": [user, network]},
                {"name": "item_id", "kind": "sparse", "used_by": [item, network]},
                {"name": "price", "kind": "dense", "used_by": [item, network]},
                {"name": "brand", "kind": "sparse", "used_by": [item]},
                {
                    "name": "recent",
                    "kind": "sparse_list",
                    "max_length": 4,
                    "table": "item_id",
                    "used_by": [user, network],
                },
            ],
        }
    )


def small_contract() -> FeatureContract:
    """The small schema with 5 users, 6 items and 3 brands, the unknown row among each."""
    return FeatureContract(
        small_schema(),
        table_rows={"user_id": 5, "item_id": 6, "brand": 3},
        vocabulary_fingerprints={"user_id": "users-1", "item_id": "items-1", "brand": "brands-1"},
        scaling={"age": Scaling(40.0, 10.0), "price": Scaling(3.0, 2.0)},
    )


@dataclass(frozen=True)
class Row:
    """One row in plain Python values."""

    age: float
    user_id: int
    item_id: int
    price: float
    brand: int
    recent: tuple[int, ...]
    segment: int
    label: int


ROWS = (
    Row(0.5, 1, 2, -1.0, 1, (3, 3, 1), 0, 1),
    Row(-1.5, 2, 2, 0.3, 1, (), 2, 0),
    Row(0.1, 1, 5, 2.0, 2, (2,), 0, 0),
    Row(1.0, 4, 1, -0.4, 1, (5, 2), 1, 1),
    Row(-0.2, 0, 3, 0.7, 0, (1, 2, 3, 4), 2, 1),
    Row(0.9, 3, 0, -1.2, 2, (4,), 0, 0),
)
"""Repeated ids within and across lists, an empty list, unknown ids, and segments out of order."""

ROWS_WITHOUT_LIGHT = tuple(row for row in ROWS if row.segment != 1)


def batch_of(rows: Sequence[Row]) -> Batch:
    """Put rows into a batch."""
    ids = [[[getattr(row, name)] for row in rows] for name in ("user_id", "item_id", "brand")]
    ids.append([list(row.recent) for row in rows])
    return Batch(
        dense=torch.tensor([[row.age, row.price] for row in rows]),
        sparse=KeyedJaggedTensor(
            keys=["user_id", "item_id", "brand", "recent"],
            values=torch.tensor([i for feature in ids for bag in feature for i in bag], dtype=torch.int64),
            lengths=torch.tensor([len(bag) for feature in ids for bag in feature], dtype=torch.int32),
        ),
        segment=torch.tensor([row.segment for row in rows]),
        label=torch.tensor([float(row.label) for row in rows]),
        weight=torch.ones(len(rows)),
    )


def two_tower_spec() -> TowerSpec:
    """A two-tower description of the small schema."""
    return TowerSpec.two_tower(small_schema(), width=TOWER_WIDTH, table_dimension=4, hidden_widths=[7])


def cross(num_fields: int, dimension: int) -> Crossing:
    """Two full-rank cross layers."""
    return CrossNetwork(num_fields, dimension, num_layers=2)


def small_ranker(
    make_composition: Callable[[BranchProjection], Composition],
    *,
    spec: TowerSpec | None = None,
    make_crossing: Callable[[int, int], Crossing] = cross,
    has_tower_field: bool = False,
    widths: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Ranker:
    """Build a ranker over the small contract; the composition is made from the projection that most of them need."""
    contract = small_contract()
    first_order = FirstOrder(contract)
    torch.manual_seed(seed)
    tower = EmbeddingTower(spec or two_tower_spec(), contract)
    fields = InteractionFields(contract, FIELD_WIDTH, has_tower_field=has_tower_field, widths=widths)
    network = InteractionNetwork(
        fields, make_crossing(fields.num_fields, FIELD_WIDTH), hidden_widths=[NETWORK_WIDTH], dropout=0.0
    )
    composition = make_composition(BranchProjection(tower.output_width, network.output_width, JOINED_WIDTH))
    head = Head(composition.output_width, hidden_widths=[4], dropout=0.0, first_order=first_order)
    ranker = Ranker(tower, network, composition, head)
    spread_out(ranker)
    return ranker


def spread_out(module: nn.Module) -> None:
    """Redraw every parameter, so that no gate or norm is at its neutral start and no gradient vanishes.

    Biases are positive, which keeps most ReLUs open; the spread is small enough for the logits to stay near 0, where
    single precision loses nothing in the loss.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.1, 0.7)
            else:
                parameter.normal_(0, 0.3)
