"""A schema's policies for invalid values, carried out on a source's rows before anything is checked or fitted.

What a policy mends is mended, what it drops is left out and counted, and what is left must pass the checks of
`staging.py` as if no policy stood there. The stream does the same for rows that nobody prepared
(`recsys/features/encoding.py`), by the same words.
"""

import functools
import operator
from collections.abc import Mapping
from dataclasses import replace

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one
from recsys.datasets.source import SourceRows
from recsys.errors import DataError
from recsys.features.account import ROWS_DROPPED
from recsys.features.policy import Policy
from recsys.features.schema import Feature, FeatureSchema

Rule = tuple[str, str, ir.BooleanValue]
"""(column, what is allowed, which rows break it)."""


def clipped(columns: Mapping[str, ir.Value], schema: FeatureSchema) -> dict[str, ir.Value]:
    """Return clean columns with numbers brought into their declared range where the policy is to clip."""
    return {
        name: _within(values, schema.feature(name))
        if schema.invalid.get(name) is Policy.CLIP and _is_dense(name, schema)
        else values
        for name, values in columns.items()
    }


def id_rules(rows: ir.Table, schema: FeatureSchema) -> list[Rule]:
    """The rules of ids that are missing or can be nobody's, for the columns whose policy is to stop or to drop."""
    return [
        (feature.name, "an id in every row", rule)
        for feature in schema.sparse
        if schema.invalid.get(feature.name) in (Policy.STOP, Policy.DROP)
        and (rule := _has_no_id(rows[feature.name])) is not None
    ]


def without_dropped(
    connection: Backend, source: SourceRows, rows: ir.Table, rules: list[Rule], schema: FeatureSchema
) -> SourceRows:
    """Return the source without the rows that break a rule whose column drops rows; `counts` say how many.

    Args:
        rows: the source's rows, clean.

    Raises:
        DataError: more are dropped than `most_dropped` of the schema allows.
    """
    broken: dict[str, ir.BooleanValue] = {}
    for column, _, rule in rules:
        if schema.invalid.get(column) is Policy.DROP:
            broken[column] = (broken[column] | rule.fill_null(False)) if column in broken else rule.fill_null(False)
    if not broken:
        return source
    anyhow = functools.reduce(operator.or_, broken.values())
    numbered = {f"rule_{number}": rule.sum() for number, rule in enumerate(broken.values())}
    found = fetch_one(connection, rows.aggregate(rows=rows.count(), dropped=anyhow.sum(), **numbered))
    dropped = int(found["dropped"] or 0)
    counts = {f"{ROWS_DROPPED}: {column}": int(found[f"rule_{n}"] or 0) for n, column in enumerate(broken)}
    if dropped > schema.most_dropped * found["rows"]:
        raise DataError(
            f"{dropped} of {found['rows']} rows are to be dropped ({counts}), more than {schema.most_dropped:g} of "
            f"them (`most_dropped` of schema `{schema.name}`). Mend the data, or raise the cap."
        )
    return replace(source, rows=rows.filter(~anyhow), counts={**source.counts, **counts, ROWS_DROPPED: dropped})


def _is_dense(name: str, schema: FeatureSchema) -> bool:
    return any(feature.name == name for feature in schema.dense)


def _within(values: ir.Value, feature: Feature) -> ir.Value:
    form = values.type()
    ends = (feature.minimum, feature.maximum)
    low, high = (None if abs(end) == float("inf") else ibis.literal(end, type=form) for end in ends)
    return values if low is None and high is None else values.clip(lower=low, upper=high)


def _has_no_id(values: ir.Value) -> ir.BooleanValue | None:
    form = values.type()
    if form.is_array():
        # A list's missing ids are left out of it, as ever, and any text is an id.
        return (values.filter(lambda value: value < 0).length() > 0) if form.value_type.is_integer() else None
    return values.isnull() | (values < 0) if form.is_integer() else values.isnull()
