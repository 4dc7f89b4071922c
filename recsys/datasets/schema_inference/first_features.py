"""Features of the columns that events and their side tables have: whose each is, and why some are left aside."""

from dataclasses import replace
from typing import Any

from ibis.backends.duckdb import Backend

from recsys.datasets.declared_roles import LabelRule
from recsys.datasets.schema_inference.column_profiles import ColumnKind, ColumnProfile, in_expression
from recsys.datasets.schema_inference.drafted_features import (
    NETWORK,
    TOWERS,
    ColumnPlace,
    Drafted,
    draft_column,
)
from recsys.datasets.schema_inference.event_roles import EventRoles, Notes
from recsys.datasets.schema_inference.first_rules import are_items, owned
from recsys.datasets.schema_inference.role_words import Role, is_called, is_only
from recsys.datasets.schema_inference.side_keys import SideKey
from recsys.features.schema import EXTRA_TYPES

_SAME_WORD, _SAME_NUMBER = 0.8, 0.99


def draft_ids(events: EventRoles, drafted: Drafted, share_unseen: float) -> tuple[str, str]:
    """Add user and item; return their names in the schema.

    Args:
        share_unseen: of the users of validation and test, those without an event in training.
    """
    names = []
    for role, column in (("user", events.columns[events.user]), ("item", events.columns[events.item])):
        used_by = TOWERS[role]
        seen = column.seen
        if column.is_padded:
            seen += "; zeros in front are part of it"
        if role == "user" and share_unseen > 0.5:
            used_by = [NETWORK]
            seen += f"; {share_unseen:.0%} of later users never occur in training, so no tower learns them by heart"
        if column.kind is ColumnKind.NUMBER:
            # A float is no id, and a missing one makes floats of a column of integers.
            name = drafted.unused(
                f"{column.name}_id" if not column.name.lower().endswith("id") else f"{column.name}_whole"
            )
            drafted.derive[name] = f"cast({in_expression(column.name)} as bigint)"
        else:
            name = drafted.unused(column.name)
            if name != column.name:
                drafted.columns[name] = column.name
        drafted.features.append(({"name": name, "kind": "sparse", "used_by": used_by}, seen))
        names.append(name)
    drafted.item = names[1]
    return names[0], names[1]


def _draft(column: ColumnProfile, place: ColumnPlace, drafted: Drafted, notes: Notes) -> bool:
    if why := draft_column(column, place, drafted):
        notes.aside[f"{place.prefix}.{column.name}" if place.prefix else column.name] = why
    return not why


def draft_events(events: EventRoles, drafted: Drafted, connection: Backend, notes: Notes) -> None:
    """Add features of the events' own columns; the notes say why others are left out."""
    roles = (events.user, events.item, events.time, events.position, events.query)
    of_items: dict[str, str] = {}
    for name, column in events.columns.items():
        if name in roles or name == LabelRule.parse(events.label or "none").column:
            continue
        if why := _why_not(name, column, events):
            notes.aside[name] = why
            continue
        if column.kind is ColumnKind.LIST and is_called(name, Role.ITEM):
            column = replace(column, is_of_items=are_items(events, name, connection))
        # A number that changes now and then, as prices do, is counted in the past instead.
        least = _SAME_NUMBER if column.is_number and not events.label else _SAME_WORD
        owner = next((role for role, key in _keys(events) if owned(events, name, key, connection, least)), "")
        if events.label:
            values = events.columns[dict(_keys(events))[owner]].distinct if owner else 0
            _draft(column, ColumnPlace(owner, values), drafted, notes)
            continue
        if owner == "item":
            place = ColumnPlace(owner, events.columns[events.item].distinct, of_items, "item")
            _draft(column, place, drafted, notes)
        elif owner:
            if _draft(column, ColumnPlace("user" if owner == "user" else ""), drafted, notes):
                drafted.keep[name] = "max"
        else:
            if column.is_number and is_called(name, Role.PRICE):
                _draft_price(column, drafted)
            notes.aside[name] = (
                "differs between a user's and an item's events, so it is not known before the user chooses. If it is, "
                "name it under `query.keep` and as a feature."
            )
    if of_items:
        drafted.tables["item_columns"] = {"key": events.item, "columns": of_items}
        notes.said["table", "tables", "item_columns"] = (
            "Made of the events: what they say of an item, its first values."
        )


def _draft_price(column: ColumnProfile, drafted: Drafted) -> None:
    name = column.name
    if column.expression:
        name = drafted.unused(f"{name}_number")
        drafted.derive[name] = column.expression
    drafted.prices[name] = float(f"{column.middle:.4g}")


def draft_side(side: SideKey, events: EventRoles, drafted: Drafted, files: Any, notes: Notes) -> None:
    """Add a side table and the features of its columns."""
    owner = "item" if side.key == events.item else "user" if side.key == events.user else ""
    columns: dict[str, str] = {}
    has_vectors = any(column.kind is ColumnKind.VECTOR for column in side.columns.values())
    for name, column in side.columns.items():
        if name == side.column or (side.time and name == side.time.name):
            continue
        if column.kind is ColumnKind.VECTOR:
            notes.aside[f"{side.table.name}.{name}"] = (
                "vectors; they can be imported as the tower: `recsys pretrain ... tower=title_vectors tower.vectors="
                f"<folder>/{side.table.files[0]} tower.id_column={side.column} tower.vector_column={name}`"
            )
        elif has_vectors and is_only(name, Role.TITLE):
            notes.aside[f"{side.table.name}.{name}"] = "the text behind the vectors, it is guessed"
        elif why := _why_not(name, column, events):
            notes.aside[f"{side.table.name}.{name}"] = why
        else:
            key_values = 0 if side.time else side.columns[side.column].distinct
            _draft(column, ColumnPlace(owner, key_values, columns, side.table.name), drafted, notes)
    if not columns:
        return
    table: dict[str, Any] = {"files": files, "key": side.key}
    if side.column != side.key:
        table["column"] = side.column
    if side.time and side.time.time:
        written = side.time.time
        table["time"] = {"column": side.time.name, "unit": written.unit}
        if written.format:
            table["time"]["format"] = written.format
    table["columns"] = columns
    said = f"{side.table.rows:,} rows; {side.covered:.1%} of the events' `{side.key}` stand in it."
    if side.time:
        said += f" Guessed: a row holds from its `{side.time.name}` on; an event gets the newest one before it."
    elif side.repeated:
        table["duplicates"] = "last"
        said += f" Guessed: of {side.repeated:,} keys with several rows the last one counts."
    no_value = sorted({word for name in columns.values() for word in side.columns[name].no_value})
    if csv := csv_document(side.table.csv, no_value):
        table["csv"] = csv
    drafted.tables[drafted_name(side.table.name, drafted)] = table
    notes.said["table", "tables", [*drafted.tables][-1]] = said


def drafted_name(name: str, drafted: Drafted) -> str:
    """A name for a side table that no other has."""
    return name if name not in drafted.tables else f"{name}_{len(drafted.tables)}"


def csv_document(form: Any, no_value: list[str]) -> dict[str, Any]:
    """What is declared of CSV files beside the usual."""
    found: dict[str, Any] = {}
    if form.encoding != "utf-8":
        found["encoding"] = form.encoding
    if form.delimiter:
        found["delimiter"] = form.delimiter
    if no_value:
        found["missing"] = no_value
    return found


def _why_not(name: str, column: ColumnProfile, events: EventRoles) -> str:
    """Why a column is no feature; empty where it can be one."""
    if name in events.judged:
        return "says what came of the event; the label is made of it, or might be, so it would leak the answer"
    if name.lower() in EXTRA_TYPES:
        return "prepared rows use this name for a column of their own, which evaluation alone reads"
    if column.kind in (ColumnKind.OTHER, ColumnKind.EMPTY, ColumnKind.VECTOR) or not column.distinct:
        return f"holds {column.kind}"
    if column.distinct == 1 and not column.missing:
        return f"has one value alone ({', '.join(column.examples)})"
    if column.kind is ColumnKind.TIME:
        return "a time; `derive` can make a number of days of it"
    if events.label and is_called(name, Role.AFTERWARDS) and name in events.columns:
        return "is said after the event, by its name, and would not be known when it is predicted"
    is_number_of_rows = column.kind in (ColumnKind.WHOLE, ColumnKind.TEXT) and column.distinct == column.rows > 1
    if is_number_of_rows and name in events.columns:
        return "has another value in every row"
    return ""


def _keys(events: EventRoles) -> list[tuple[str, str]]:
    keys = [("item", events.item), ("user", events.user)]
    return [*keys, ("query", events.query)] if events.query else keys
