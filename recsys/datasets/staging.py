"""Raw rows, checked and cleaned once, in the form that fitting and encoding read.

Cleaning happens here and nowhere else: NaN and infinity become null, numbers get one width, times become UTC. A value
that breaks the schema stops the preparation before anything is fitted or written.
"""

import datetime
import functools
import operator
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import (
    approx_quantile,
    fetch,
    fetch_one,
    is_moment,
    isfinite,
    seconds_since_1970,
    store,
    utc_without_zone,
)
from recsys.datasets.list_rules import list_rules
from recsys.datasets.policies import clipped, id_rules, without_dropped
from recsys.datasets.source import DAY, SPLIT, TRAIN, SourceRows
from recsys.errors import DataError, did_you_mean
from recsys.features.graded import GRADE
from recsys.features.policy import Policy
from recsys.features.schema import EXTRA_TYPES, Feature, FeatureKind, FeatureSchema

INVALID_ID = -1
"""What an integer id becomes that no table row can stand for; negative ids are invalid as they come."""

_LARGEST_INT64 = 2**63 - 1
# Differences, squares and means of numbers up to here stay finite.
_MOST_NUMBER = 1e300
# Sums and shares of weights between these stay finite in float32, and above 0.
_WEIGHTS = (1e-30, 1e30)
# A row that outweighs the others by more makes them count for nothing in float32.
_MOST_WEIGHT = 1e6
# A split names a folder: nothing that could lead out of it, or be read as a pattern.
_SPLIT_NAME = "[a-z][a-z0-9_]*"


@dataclass(frozen=True)
class StagedRows:
    """Clean rows of a source.

    Attributes:
        table: all of them. Dense features float64 or float32 and sparse features string or int64 (null where missing),
            lists arrays of those, which agree where they stand beside one another, the segment as its name, label and
            weight float64, time timestamp without zone (UTC), `split`, `day`, and the extras in their encoded types.
        source: where they come from, less the rows that the schema's policies dropped, which it counts.
        ranges: the least and the greatest value of every dense feature, its fill among them where it is needed.
    """

    table: ir.Table
    source: SourceRows
    ranges: Mapping[str, tuple[float, float]]
    _schema: FeatureSchema

    @property
    def keeps_order(self) -> bool:
        """Whether the rows of a day come in the same order every time: that of their file."""
        return self.source.in_files_by_day

    def shown_name(self, column: str) -> str:
        """A column's name for messages, with the one that it has in the source's own files."""
        return _both_names(column, self.source)

    def of_days(self, split: str, first: datetime.date, last: datetime.date) -> ir.Table:
        """The rows of one split and its days from `first` to `last`."""
        if not self.source.in_files_by_day:
            return self.table.filter((self.table[SPLIT] == split) & self.table[DAY].between(first, last))
        # Asked of the files' own column before anything is computed from it, so that other days' files stay closed.
        rows = self.source.rows
        time = rows[self._schema.time]
        zone = datetime.UTC if time.type().timezone else None
        start = datetime.datetime.combine(first, datetime.time(), zone)
        stop = datetime.datetime.combine(last, datetime.time(), zone) + datetime.timedelta(days=1)
        wanted = rows.filter((time >= start) & (time < stop))
        return wanted.select(**_clean_columns(wanted, self.source, self._schema))


def stage(connection: Backend, source: SourceRows, schema: FeatureSchema) -> StagedRows:
    """Return the source's rows clean and checked: straight from files by day, or run once and stored by day.

    Raises:
        DataError: a column is missing or has the wrong type (before any work), or holds values that the schema does
            not allow; names the column, the values found and how many.
    """
    _require_columns(source, schema)
    if Policy.DROP in schema.invalid.values():
        clean = source.rows.mutate(**_clean_columns(source.rows, source, schema))
        source = without_dropped(connection, source, clean, _broken_rules(clean, source, schema), schema)
    clean = source.rows.select(**_clean_columns(source.rows, source, schema))
    if not source.in_files_by_day:
        # Sorted, the rows of a few days are found without touching the others.
        clean = store(connection, "staged", clean.order_by([SPLIT, DAY]))
    ranges = _require_values(connection, clean, source, schema)
    return StagedRows(clean, source, ranges, schema)


def missing_or_infinite_as_null(values: ir.Value) -> ir.Value:
    """Return numbers as float64 (float32 where they come as such) with NaN and both infinities as null."""
    form = "float32" if values.type().is_float32() else "float64"
    numbers = values.cast(form)
    is_whole = values.type().is_integer() or values.type().is_boolean()
    return numbers if is_whole else isfinite(numbers).ifelse(numbers, ibis.null(form))


def _require_columns(source: SourceRows, schema: FeatureSchema) -> None:
    found = source.rows.schema()
    where = _where(source)
    if unknown := sorted(set(source.extras) - set(EXTRA_TYPES)):
        raise DataError(f"{where}: extra column `{unknown[0]}` has no meaning; expected some of {[*EXTRA_TYPES]}.")
    for name, (expected, accepts) in _expected_types(source, schema).items():
        if name not in found:
            raise DataError(
                f"{where}: column `{name}` is missing{did_you_mean(name, found)}; expected {expected}, found the "
                f"columns {', '.join(found)}. Rename the column in the data, or the feature in schema `{schema.name}`."
            )
        if not accepts(found[name]):
            raise DataError(
                f"{where}: column {_both_names(name, source)} has type {found[name]}; expected {expected}. Cast the "
                f"column in the data, or declare another kind in schema `{schema.name}`."
            )


def _expected_types(source: SourceRows, schema: FeatureSchema) -> dict[str, tuple[str, Any]]:
    number = ("a number", lambda form: form.is_numeric() or form.is_boolean())
    text = ("a string", lambda form: form.is_string())
    kinds = {
        FeatureKind.DENSE: ("a number", lambda form: form.is_numeric() or form.is_boolean() or is_moment(form)),
        FeatureKind.SPARSE: ("a string or integer id", _is_id),
        FeatureKind.SPARSE_LIST: (
            "an array of string or integer ids",
            lambda form: form.is_array() and _is_id(form.value_type) and form.value_type != dt.uint64,
        ),
        FeatureKind.DENSE_LIST: (
            "an array of numbers",
            lambda form: form.is_array() and (form.value_type.is_numeric() or form.value_type.is_boolean()),
        ),
    }
    return {
        **{feature.name: kinds[feature.kind] for feature in schema.features},
        schema.segment: text,
        schema.label: number,
        schema.time: ("a timestamp", lambda form: form.is_timestamp()),
        **({schema.weight: number} if schema.weight else {}),
        SPLIT: text,
        DAY: ("a date", lambda form: form.is_date()),
        **dict.fromkeys(source.extras, number),
    }


def _clean_columns(rows: ir.Table, source: SourceRows, schema: FeatureSchema) -> dict[str, ir.Value]:
    columns = {feature.name: _clean_feature(rows[feature.name], feature) for feature in schema.features}
    columns[schema.segment] = rows[schema.segment]
    for name in (schema.label, schema.weight):
        if name:
            columns[name] = missing_or_infinite_as_null(rows[name])
    columns[schema.time] = utc_without_zone(rows[schema.time])
    columns |= {SPLIT: rows[SPLIT], DAY: rows[DAY]}
    for name in source.extras:
        is_real = EXTRA_TYPES[name] == "float32"
        columns[name] = (missing_or_infinite_as_null(rows[name]) if is_real else rows[name]).cast(EXTRA_TYPES[name])
    return clipped(columns, schema)


def _clean_feature(values: ir.Value, feature: Feature) -> ir.Value:
    form = values.type()
    if feature.kind is FeatureKind.DENSE:
        return missing_or_infinite_as_null(seconds_since_1970(values) if is_moment(form) else values)
    if feature.kind is FeatureKind.DENSE_LIST:
        return values if form.value_type.is_float32() else values.cast("array<float64>")
    if form == dt.uint64:
        return (values > _LARGEST_INT64).ifelse(INVALID_ID, values.cast("int64"))
    if form.is_integer():
        return values.cast("int64")
    if form.is_array() and form.value_type.is_integer():
        return values.cast("array<int64>")
    return values


def _require_values(
    connection: Backend, staged: ir.Table, source: SourceRows, schema: FeatureSchema
) -> dict[str, tuple[float, float]]:
    """Count every broken rule in one pass; a rule that is broken stops the work with an example.

    Returns:
        The ranges of dense features.
    """
    where = _where(source)
    rules = _broken_rules(staged, source, schema)
    counts = fetch_one(
        connection,
        staged.aggregate(
            rows=staged.count(),
            train_rows=(staged[SPLIT] == TRAIN).sum(),
            train_positives=((staged[SPLIT] == TRAIN) & (staged[schema.label] > 0)).sum(),
            **{f"rule_{number}": broken.sum() for number, (_, _, broken) in enumerate(rules)},
            **{f"low_{number}": staged[feature.name].min() for number, feature in enumerate(schema.dense)},
            **{f"high_{number}": staged[feature.name].max() for number, feature in enumerate(schema.dense)},
            **{f"nulls_{number}": staged[feature.name].isnull().any() for number, feature in enumerate(schema.dense)},
        ),
    )
    if not counts["rows"] or not counts["train_rows"]:
        found = fetch(connection, staged.group_by(SPLIT).aggregate(rows=staged.count()).order_by(SPLIT)).to_pylist()
        splits = ", ".join(f"{row[SPLIT]} {row['rows']}" for row in found) or "none"
        raise DataError(
            f"{where}: 0 rows for split `{TRAIN}` (rows by split: {splits}{_left_out(source)}). Vocabularies and "
            "scaling are fitted on it: check the rule by which the rows are split, and the files."
        )
    for number, (column, expected, broken) in enumerate(rules):
        if count := counts[f"rule_{number}"]:
            example = fetch(connection, staged.filter(broken).select(value=staged[column]).distinct().limit(100))
            values = sorted(map(_shown, example["value"].to_pylist()))
            raise DataError(
                f"{where}: column {_both_names(column, source)} holds {values[0]} in {count} of {counts['rows']} rows; "
                f"expected {expected}. Mend those rows, or the declaration in schema `{schema.name}`."
            )
    if counts["train_positives"] in (0, counts["train_rows"]):
        only = 0 if not counts["train_positives"] else 1
        raise DataError(
            f"{where}: the label {_both_names(schema.label, source)} is {only} in all {counts['train_rows']} training "
            "rows; expected both 0 and 1, as nothing can be learned from one alone. Check the rule of the label, or "
            "add rows of the other kind."
        )
    if schema.weight:
        _require_weight(connection, staged, source, schema.weight)
    return {
        feature.name: _range(feature, *(counts[f"{what}_{number}"] for what in ("low", "high", "nulls")))
        for number, feature in enumerate(schema.dense)
    }


def _range(feature: Feature, low: float | None, high: float | None, has_nulls: bool) -> tuple[float, float]:
    found = [end for end in (low, high, feature.fill if has_nulls else None) if end is not None]
    return (min(found), max(found)) if found else (0.0, 0.0)


def _require_weight(connection: Backend, staged: ir.Table, source: SourceRows, name: str) -> None:
    """Refuse a split in which no row counts, and one in which a row makes all others count for nothing."""
    weight, where = staged[name], f"{_where(source)}: the weight {_both_names(name, source)}"
    positive = ibis.ifelse(weight > 0, weight, ibis.null("float64"))
    by_split = staged.group_by(SPLIT).aggregate(
        rows=weight.count(), most=weight.max(), middle=approx_quantile(positive, 0.5)
    )
    for found in fetch(connection, by_split.order_by(SPLIT)).to_pylist():
        if not found["most"]:
            raise DataError(
                f"{where} is 0 in all {found['rows']} rows of split `{found[SPLIT]}`; expected rows that count. Mend "
                "the weights, or leave the rows out."
            )
        if found["most"] > _MOST_WEIGHT * found["middle"]:
            raise DataError(
                f"{where} is {found['most']:.6g} in a row of split `{found[SPLIT]}`, whose weights are mostly about "
                f"{found['middle']:.6g}; expected at most {_MOST_WEIGHT:,.0f} times as much, as beside it no other row "
                "would count. Mend the weights."
            )


def _broken_rules(
    staged: ir.Table, source: SourceRows, schema: FeatureSchema
) -> list[tuple[str, str, ir.BooleanValue]]:
    """(column, what is allowed, which rows break it) of every rule."""
    label, time, split, segment = (staged[name] for name in (schema.label, schema.time, SPLIT, schema.segment))
    rules = [
        (schema.label, "a label of 0 or 1", label.isnull() | label.notin([0.0, 1.0])),
        (schema.segment, f"one of {', '.join(schema.segments)}", segment.isnull() | segment.notin(schema.segments)),
        (schema.time, "a time in every row", time.isnull()),
        (SPLIT, f"a name like {_SPLIT_NAME}", split.isnull() | ~split.re_search(f"^{_SPLIT_NAME}$")),
        (DAY, f"the UTC day of `{schema.time}`", staged[DAY].isnull() | (staged[DAY] != time.date())),
    ]
    if schema.weight:
        weight = staged[schema.weight]
        is_lost = (weight > 0) & ~weight.between(*_WEIGHTS)
        rules.append((schema.weight, "a finite weight of at least 0", weight.isnull() | (weight < 0)))
        rules.append((schema.weight, f"a weight of 0, or from {_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}", is_lost))
    for feature in schema.dense:
        rules.extend(_dense_rules(staged[feature.name], feature))
    rules += list_rules(staged, schema)
    rules.extend((name, "a finite number in every row", staged[name].isnull()) for name in source.extras)
    if schema.graded and GRADE in source.extras:
        is_above = staged[GRADE] > ibis.literal(schema.graded.answer, type="float32")
        expected = f"1 just where `{schema.graded.column}` is above {schema.graded.answer:g}, as `graded.answer` says"
        rules.append((schema.label, expected, (label > 0) != is_above))
    return [*rules, *id_rules(staged, schema)]


def _dense_rules(values: ir.Value, feature: Feature) -> list[tuple[str, str, ir.BooleanValue]]:
    rules = []
    if feature.fill is None:
        rules.append((feature.name, "a finite number in every row, as the feature declares no `fill`", values.isnull()))
    if values.type().is_float64():
        large = values.abs() > _MOST_NUMBER
        rules.append((feature.name, f"a number of at most {_MOST_NUMBER:g} in size", large))
    # In the column's own width: as float64 a float32 of 0.7 lies below 0.7.
    ends = [(operator.lt, feature.minimum), (operator.gt, feature.maximum)]
    finite = [
        compare(values, ibis.literal(end, type=values.type())) for compare, end in ends if abs(end) != float("inf")
    ]
    if finite:
        allowed = f"a number in [{feature.minimum}, {feature.maximum}]"
        rules.append((feature.name, allowed, functools.reduce(operator.or_, finite)))
    return rules


def _is_id(form: dt.DataType) -> bool:
    return bool(form.is_string() or form.is_integer())


def _both_names(column: str, source: SourceRows) -> str:
    return f"`{column}`" + (f" (`{source.origins[column]}` in the files)" if column in source.origins else "")


def _shown(value: object) -> str:
    # Of a long list the first elements say which it is.
    shown = reprlib.repr(value) if isinstance(value, list) else repr(value)
    return "no value (null, NaN or infinity)" if value is None else shown


def _left_out(source: SourceRows) -> str:
    return "".join(f"; {what}: {number}" for what, number in source.counts.items() if number)


def _where(source: SourceRows) -> str:
    files = source.description.get("files")
    return f"Rows of {', '.join(files)}" if files else "The source's rows"
