"""Vocabularies and scaling, fitted on the training split alone.

Both are functions of the set of training rows: neither the order in which threads met the rows nor their number of
threads can change a bit. Sums therefore run over integers, as a sum of floating-point numbers depends on its order.
"""

import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch, fetch_one, stream
from recsys.datasets.source import SPLIT, TRAIN
from recsys.errors import DataError
from recsys.features.contract import Scaling
from recsys.features.schema import Feature, FeatureKind, FeatureSchema, Scale
from recsys.features.vocabulary import Vocabulary

# Steps into which a feature's range is cut for the exact sums: finer than float32 by a factor of 128, while a square
# still fits into 64 bits (DuckDB then sums in 128).
_STEPS = 2**31
# Ids up to here are counted in an array (128 MB at most), which is several times as quick as grouping them.
_MOST_COUNTED_ID = 2**24
_COUNTED_ROWS = 100_000


def fit_vocabularies(connection: Backend, staged: ir.Table, schema: FeatureSchema) -> dict[str, Vocabulary]:
    """Return each embedding table's ids, the most frequent first, ties in the order of the ids.

    Null and negative ids are left out: they belong to the unknown row.

    Raises:
        DataError: two features share a table, but one has string ids and the other integers.
    """
    train = staged.filter(staged[SPLIT] == TRAIN)
    numbered = {
        table: features
        for table, features in schema.tables.items()
        if all(_id_type(train, feature).is_integer() for feature in features)
    }
    counted = _count_small_numbers(connection, train, numbered)
    return {
        table: counted.get(table) or _fit_vocabulary(connection, train, table, features)
        for table, features in schema.tables.items()
    }


def _count_small_numbers(
    connection: Backend, train: ir.Table, tables: Mapping[str, tuple[Feature, ...]]
) -> dict[str, Vocabulary]:
    """Count ids at the place of their own number, all tables in one pass; tables with larger ids are left out."""
    if not tables:
        return {}
    counts = {table: np.zeros(1, dtype=np.int64) for table in tables}
    query = connection.compile(train.select(*(feature.name for features in tables.values() for feature in features)))
    for batch in stream(connection, query, _COUNTED_ROWS):
        for table in [*counts]:
            ids = [_plain_ids(batch[feature.name], feature) for feature in tables[table]]
            most = max(int(part.max(initial=0)) for part in ids)
            if most > _MOST_COUNTED_ID:
                del counts[table]
                continue
            if most >= len(counts[table]):
                counts[table] = np.pad(counts[table], (0, most + 1 - len(counts[table])))
            for part in ids:
                np.add.at(counts[table], part, 1)
    found = {}
    for table, occurrences in counts.items():
        present = np.flatnonzero(occurrences)
        by_count = np.argsort(-occurrences[present], kind="stable")
        found[table] = Vocabulary(table, pa.array(present[by_count], type=pa.int64()))
    return found


def _plain_ids(values: pa.Array, feature: Feature) -> npt.NDArray[np.int64]:
    flat = values.flatten() if feature.kind is FeatureKind.SPARSE_LIST else values
    ids = np.asarray(flat.drop_null().to_numpy(zero_copy_only=False), dtype=np.int64)
    return ids[ids >= 0] if ids.min(initial=0) < 0 else ids


def _id_type(rows: ir.Table, feature: Feature) -> dt.DataType:
    form = rows[feature.name].type()
    return form.value_type if feature.kind is FeatureKind.SPARSE_LIST else form


def _fit_vocabulary(connection: Backend, train: ir.Table, table: str, features: tuple[Feature, ...]) -> Vocabulary:
    occurrences = [_occurrences(train, feature) for feature in features]
    forms = {feature.name: counts.id.type() for feature, counts in zip(features, occurrences, strict=True)}
    if len({form.is_string() for form in forms.values()}) > 1:
        found = ", ".join(f"`{name}` ({form})" for name, form in forms.items())
        raise DataError(
            f"The features {found} share the embedding table `{table}`, so their ids must all be strings or all be "
            "integers. Cast one column in the data, or give the features tables of their own."
        )
    merged = functools.reduce(ibis.union, occurrences)
    counts = merged.group_by("id").aggregate(occurrences=merged.occurrences.sum())
    ids = fetch(connection, counts.order_by([ibis.desc("occurrences"), "id"]))["id"].combine_chunks()
    return Vocabulary(table, ids.cast(pa.int64() if pa.types.is_integer(ids.type) else pa.string()))


def _occurrences(train: ir.Table, feature: Feature) -> ir.Table:
    values = train[feature.name]
    ids = train.select(id=values.unnest() if feature.kind is FeatureKind.SPARSE_LIST else values)
    valid = ids.filter(ids.id.notnull() if ids.id.type().is_string() else ids.id >= 0)
    counts = valid.group_by("id").aggregate(occurrences=valid.count())
    # Counted first and cast afterwards: ids may be of an ENUM type, which counts faster and shares no union.
    return counts.mutate(id=counts.id.cast("string")) if counts.id.type().is_string() else counts


def fit_scaling(connection: Backend, staged: ir.Table, schema: FeatureSchema) -> dict[str, Scaling]:
    """Return the centre and spread (population standard deviation) of every dense feature that is scaled.

    Missing values count as the feature's fill. A feature that never varies gets spread 1.
    """
    scaled = [feature for feature in schema.dense if feature.scale is not Scale.NONE]
    if not scaled:
        return {}
    train = staged.filter(staged[SPLIT] == TRAIN)
    ranges = fetch_one(
        connection,
        train.aggregate(
            rows=train.count(),
            **{f"f{number}_low": _filled(train[f.name], f).min() for number, f in enumerate(scaled)},
            **{f"f{number}_high": _filled(train[f.name], f).max() for number, f in enumerate(scaled)},
        ),
    )
    # The transformation rises throughout, so it takes the ends of the raw range to those of its own.
    bounds = {}
    for number, feature in enumerate(scaled):
        low, high = ranges[f"f{number}_low"], ranges[f"f{number}_high"]
        bounds[f"f{number}"] = (_transformed_number(low, feature), _transformed_number(high, feature))
    values = train.select(**{f"f{number}": transformed(train[f.name], f) for number, f in enumerate(scaled)})
    steps = values.select(**{name: _to_steps(values[name], *bounds[name]) for name in values.columns})
    sums = fetch_one(
        connection,
        steps.aggregate(
            **{f"{name}_sum": steps[name].sum().cast("string") for name in steps.columns},
            **{f"{name}_squares": (steps[name] * steps[name]).sum().cast("string") for name in steps.columns},
        ),
    )
    return {
        feature.name: _scaling(
            int(sums[f"f{number}_sum"]), int(sums[f"f{number}_squares"]), ranges["rows"], *bounds[f"f{number}"]
        )
        for number, feature in enumerate(scaled)
    }


def transformed(values: ir.Value, feature: Feature) -> ir.Value:
    """A dense column with its fill and, for `scale: log`, sign(x) log(1 + |x|); what centre and spread speak of."""
    filled = _filled(values, feature)
    return filled.sign() * (filled.abs() + 1.0).ln() if feature.scale is Scale.LOG else filled


def _transformed_number(value: float, feature: Feature) -> float:
    return math.copysign(math.log(abs(value) + 1.0), value) if feature.scale is Scale.LOG else value


def _filled(values: ir.Value, feature: Feature) -> ir.Value:
    numbers = values.cast("float64")
    return numbers if feature.fill is None else numbers.fill_null(float(feature.fill))


def _to_steps(values: ir.Value, low: float, high: float) -> ir.Value:
    width = high - low
    if width == 0:
        return (values * 0).cast("int64")
    return ((values - low) / width * _STEPS).round().cast("int64")


def _scaling(total: int, squares: int, rows: int, low: float, high: float) -> Scaling:
    mean = Fraction(total, rows)
    variance = Fraction(squares, rows) - mean * mean
    width = high - low
    spread = math.sqrt(variance) / _STEPS * width
    return Scaling(centre=low + float(mean / _STEPS) * width, spread=spread if spread > 0 else 1.0)
