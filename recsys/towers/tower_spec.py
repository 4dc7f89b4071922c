"""What a tower is built from: its kind, its widths, and the features that it reads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from recsys.errors import DataError, UsageError
from recsys.features.schema import ITEM_TOWER, USER_TOWER, FeatureKind, FeatureSchema
from recsys.towers.event_groups import event_groups

TABLE_PREFIX = "tower_"
"""Goes before the vocabulary's name in the name of each of the tower's tables."""


def table_weight(table: str) -> str:
    """Return the name, in a tower's `state_dict()`, of the table for a vocabulary."""
    return f"ebc.embedding_bags.{TABLE_PREFIX}{table}.weight"


class TowerKind(StrEnum):
    """Where a tower's vectors come from."""

    TWO_TOWER = "two_tower"
    IMPORTED = "imported"
    HISTORY = "history"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class HistoryShape:
    """What a history tower has beside the features that it reads.

    Attributes:
        key_width, factor_width: of an id's key, and of its factor.
        vectors_width: of imported vectors, 0 where there are none; projection_width: of what a head makes of them.
        reads_gaps: whether the ages of events are read where the schema has them.
        event_dropout, history_dropout: shares of the events, and of the rows' whole user histories, that a step hides.
        key_dropout: of the numbers of the ids' keys.
        frozen: sources and heads that stay as they are in every training mode.
    """

    key_width: int
    factor_width: int
    vectors_width: int
    projection_width: int
    reads_gaps: bool
    event_dropout: float
    history_dropout: float
    key_dropout: float
    frozen: tuple[str, ...]


@dataclass(frozen=True)
class SequenceShape:
    """What a sequence tower has beside the features that it reads.

    Attributes:
        blocks: layers of attention; heads: of each.
        dropout: of what each adds, and of the items that are read.
    """

    blocks: int
    heads: int
    dropout: float


@dataclass(frozen=True)
class TowerSpec:
    """All that is needed to build a tower's modules for a given contract.

    Attributes:
        width: D, of each side's vector.
        table_dimension: width of one id's embedding; D itself for imported vectors, which nothing projects.
        hidden_widths: of each side's layers between embeddings and its vector; empty for imported vectors.
        user_features, item_features: names in schema order. An imported tower without user features has no user side.
        history: of a history tower, else None; sequence: of a sequence tower, else None.
    """

    kind: TowerKind
    width: int
    table_dimension: int
    hidden_widths: tuple[int, ...]
    user_features: tuple[str, ...]
    item_features: tuple[str, ...]
    history: HistoryShape | None = None
    sequence: SequenceShape | None = None

    @classmethod
    def two_tower(
        cls, schema: FeatureSchema, *, width: int, table_dimension: int, hidden_widths: Sequence[int]
    ) -> "TowerSpec":
        """Describe a tower over the features that the schema gives to its user side and its item side.

        Raises:
            UsageError: a side has no sparse feature.
        """
        # Lists of numbers say something of single events, of which this tower sees the mean.
        sides = {
            part: [feature for feature in schema.used_by(part) if feature.kind is not FeatureKind.DENSE_LIST]
            for part in (USER_TOWER, ITEM_TOWER)
        }
        for part, side in sides.items():
            if not any(feature.is_sparse for feature in side):
                raise UsageError(
                    f"Schema `{schema.name}` gives {part} the features {[feature.name for feature in side]}; expected "
                    f"at least one sparse feature. Add `{part}` to the `used_by` of one."
                )
        user, item = (tuple(feature.name for feature in side) for side in sides.values())
        return cls(TowerKind.TWO_TOWER, width, table_dimension, tuple(hidden_widths), user, item)

    @classmethod
    def imported(cls, schema: FeatureSchema, *, width: int) -> "TowerSpec":
        """Describe a tower over one vector per item; the user's is the mean over the list that shares the item's table.

        Only lists that the schema gives to the user tower count.
        """
        table = schema.feature(schema.item).table
        lists = [feature for feature in schema.used_by(USER_TOWER) if feature.kind is FeatureKind.SPARSE_LIST]
        recent = tuple(feature.name for feature in lists if feature.table == table)[:1]
        return cls(TowerKind.IMPORTED, width, width, (), recent, (schema.item,))

    @classmethod
    def reading_history(cls, schema: FeatureSchema, shape: HistoryShape) -> "TowerSpec":
        """Describe a tower over the events that the schema declares.

        Raises:
            UsageError: it declares none.
        """
        groups = event_groups(schema)
        by_side = {side: [name for g in groups if g.side == side for name in g.features] for side in ("user", "item")}
        user, item = (tuple(dict.fromkeys(names)) for names in by_side.values())
        return cls(TowerKind.HISTORY, shape.factor_width, shape.key_width, (), user, item, shape)

    @classmethod
    def reading_sequence(cls, schema: FeatureSchema, *, width: int, shape: SequenceShape) -> "TowerSpec":
        """Describe a tower over the items that a user met: the longest list of the user tower with the item's table.

        Raises:
            UsageError: there is none, or the heads do not divide the width.
        """
        table = schema.feature(schema.item).table
        lists = [
            feature
            for feature in schema.used_by(USER_TOWER)
            if feature.kind is FeatureKind.SPARSE_LIST and feature.table == table and not feature.beside
        ]
        if not lists:
            raise UsageError(
                f"Schema `{schema.name}` has no list for a sequence tower: none that {USER_TOWER} reads shares the "
                f"table of `{schema.item}`. Declare one (`table.history`, kind: recent), or choose tower=two_tower."
            )
        if width % shape.heads:
            raise UsageError(f"`tower.heads` is {shape.heads}; expected a divisor of `tower.width`, which is {width}.")
        events = max(lists, key=lambda feature: feature.max_length)
        return cls(TowerKind.SEQUENCE, width, width, (), (events.name,), (schema.item,), sequence=shape)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `from_document` reads back."""
        document = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        for key, shape in (("history", self.history), ("sequence", self.sequence)):
            if shape is None:
                del document[key]
            else:
                document[key] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(shape).items()}
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "TowerSpec":
        """Read what `to_document` wrote.

        Raises:
            DataError: a key is missing or unknown, or the kind is no `TowerKind`.
        """
        try:
            values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in document.items()}
            if history := values.get("history"):
                values["history"] = HistoryShape(**{**history, "frozen": tuple(history["frozen"])})
            if sequence := values.get("sequence"):
                values["sequence"] = SequenceShape(**sequence)
            return cls(**{**values, "kind": TowerKind(values["kind"])})
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(
                f"This is no tower's description ({error}); expected the keys "
                f"{', '.join(field.name for field in fields(cls))}. Pre-train or import the tower again."
            ) from error
