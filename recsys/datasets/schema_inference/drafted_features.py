"""The features of a document while it is drafted, and how one column becomes a feature: its kind, and who reads it."""

import re
from dataclasses import dataclass, field
from typing import Any

from recsys.datasets.schema_inference.column_profiles import ColumnKind, ColumnProfile, in_expression
from recsys.datasets.schema_inference.role_words import Role, is_called
from recsys.features.column_names import ROLES, SEGMENT_KEY
from recsys.features.schema import RESERVED_COLUMNS

NETWORK = "interaction_network"
TOWERS = {"user": ["user_tower", NETWORK], "item": ["item_tower", NETWORK], "": [NETWORK]}
_LONGEST_LIST = 20
_LONGEST_TITLE = 12
_MOST_CATEGORIES = 200


@dataclass
class Drafted:
    """What the document will hold of features.

    Attributes:
        features: entries, each with what was seen of its column.
        categories: columns of items by which a past may be counted -> their number of values.
        prices: what an event cost, by the name that a history reads -> its median.
        event_columns: the events' own columns; no side table's may have these names.
    """

    features: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    derive: dict[str, str] = field(default_factory=dict)
    lists: dict[str, dict[str, str]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    keep: dict[str, str] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    no_value: set[str] = field(default_factory=set)
    missing: dict[str, int] = field(default_factory=dict)
    item: str = ""
    event_columns: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        """Names in use, in small letters."""
        own = [entry["name"] for entry, _ in self.features]
        return {name.lower() for name in (*own, *self.derive, *ROLES, *RESERVED_COLUMNS, SEGMENT_KEY)}

    def unused(self, name: str, prefix: str = "") -> str:
        """A name like this one that no other column has; with the prefix, if there is one, where it is taken."""
        plain = re.sub(r"\W+", "_", name).strip("_") or "column"
        if prefix and (plain.lower() in self.names or plain in self.event_columns):
            return self.unused(f"{prefix}_{plain}")
        plain = plain if not plain[0].isdigit() else f"column_{plain}"
        if plain.lower() not in self.names:
            return plain
        number = next(each for each in range(1, 10_000) if f"{plain}_{each}".lower() not in self.names)
        return f"{plain}_value" if f"{plain}_value".lower() not in self.names else f"{plain}_{number}"


@dataclass(frozen=True)
class ColumnPlace:
    """Where a column stands.

    Attributes:
        owner: whose it is: `user`, `item`, or nobody's.
        values: how many users or items there are; 0 where it is nobody's.
        columns: of the side table that has it: name from here on -> its own; None: the events have it.
        prefix: what is put before names of the side table that are taken.
    """

    owner: str = ""
    values: int = 0
    columns: dict[str, str] | None = None
    prefix: str = ""

    def most_values(self, column: ColumnProfile) -> float:
        """The number of values above which a text is no word that many rows share."""
        return 0.5 * self.values if self.values else max(0.5 * column.rows, _MOST_CATEGORIES)

    def read(self, column: ColumnProfile, name: str) -> str:
        """Have a side table's column read by a name; return the name that it has from here on."""
        if self.columns is None:
            return column.name
        self.columns[name] = column.name
        return name


def draft_column(column: ColumnProfile, place: ColumnPlace, drafted: Drafted) -> str:
    """Add the feature of a column; return why it is left out, empty where it is not."""
    name = drafted.unused(column.name, place.prefix)
    if column.kind is ColumnKind.LIST or column.separator:
        entry = _list(column, name, place, drafted)
    elif column.is_number and not (column.kind is ColumnKind.WHOLE and is_called(column.name, Role.CATEGORY)):
        entry = _dense(column, name, place, drafted)
    elif column.kind is ColumnKind.TEXT and column.distinct > place.most_values(column):
        if column.words < 1.5 or column.examples[0].startswith(("http", "/")):
            return f"nearly every {place.owner or 'row'} has another value ({column.seen})"
        entry = {"name": drafted.unused(f"{name}_words"), "kind": "sparse_list"}
        entry["max_length"] = max(1, min(int(column.high), _LONGEST_TITLE))
        drafted.words[entry["name"]] = place.read(column, name)
    else:
        entry = {"name": name, "kind": "sparse"}
        if place.owner == "item" and column.distinct <= _MOST_CATEGORIES:
            drafted.categories[name] = column.distinct
    if entry["name"] == name and place.read(column, name) != name:
        drafted.columns[name] = column.name
    drafted.features.append(({**entry, "used_by": TOWERS[place.owner]}, column.seen))
    return ""


def _list(column: ColumnProfile, name: str, place: ColumnPlace, drafted: Drafted) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "kind": "sparse_list"}
    if column.separator:
        entry["name"] = drafted.unused(f"{name}_list")
        drafted.lists[entry["name"]] = {"column": place.read(column, name), "separator": column.separator}
    if column.is_of_items:
        entry["table"] = drafted.item
    if place.owner == "item":
        drafted.categories[entry["name"]] = column.distinct
    return {**entry, "max_length": max(1, min(int(column.high), _LONGEST_LIST))}


def _dense(column: ColumnProfile, name: str, place: ColumnPlace, drafted: Drafted) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "kind": "dense"}
    if column.expression:
        entry["name"] = drafted.unused(f"{name}_number")
        source = in_expression(place.read(column, name))
        drafted.derive[entry["name"]] = column.expression.replace(in_expression(column.name), source)
    elif column.stand_in is not None:
        drafted.missing[name] = column.stand_in
    if column.no_value and place.columns is None:
        drafted.no_value.update(column.no_value)
    if column.kind is ColumnKind.TRUTH:
        entry |= {"minimum": 0, "maximum": 1}
    elif column.low >= 0 or column.stand_in is not None:
        entry["minimum"] = 0
        # Where a hundredth of the rows lies far from the middle, a logarithm brings them near.
        if column.high > 10 * max(column.middle, 1e-9):
            entry["scale"] = "log"
    # Rows whose key the side table lacks have no value of it.
    if column.missing or place.columns is not None or column.stand_in is not None:
        entry["fill"] = float(f"{column.middle:.4g}")
    return entry
