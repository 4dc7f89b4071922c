"""Rows to score are read as the preparation reads them: every type of column, every key of the `table:` block."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.staging import stage
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.datasets.table_rows import RowReader
from recsys.features.plain_arrays import plain_ids, plain_numbers
from recsys.features.schema import FeatureKind, load_schema
from recsys.progress import silent
from tests.datasets.small_table import ROWS, SCHEMA, TABLE, feature

TAGS = feature("tags", "sparse_list", max_length=3)


def read_both(
    folder: Path, columns: dict[str, Any], table: dict[str, Any], **schema: Any
) -> tuple[list[Any], list[Any]]:
    """Features and segment of the four rows, prepared and read for scoring, in plain values."""
    path = folder / "schema.yaml"
    block = {key: value for key, value in {**TABLE, **table}.items() if value is not None}
    path.write_text(json.dumps({**SCHEMA, **schema, "table": block}), encoding="utf-8")
    declared = load_schema(path)
    layout = load_table_layout(path, declared)
    rows = pa.table({**ROWS, **columns})
    pq.write_table(rows, folder / "rows.parquet")
    with temporary_database(folder, "500MB", 1) as connection:
        staged = stage(connection, TableSource(folder, layout).read(connection, declared, silent), declared)
        prepared = fetch(connection, staged.table.order_by(declared.time))
    types = {}
    for one in declared.sparse:
        form = prepared[one.name].type
        types[one.table] = form.value_type if one.kind is FeatureKind.SPARSE_LIST else form
    read = RowReader(layout, declared, types).read(rows)

    def plain(found: pa.Table) -> list[Any]:
        values: list[Any] = [found[declared.segment].to_pylist()]
        for one in declared.features:
            column = found[one.name]
            if one.kind is FeatureKind.DENSE:
                column = plain_numbers(column, one.name)
            elif one.kind is FeatureKind.SPARSE:
                column = plain_ids(column, types[one.table], one.name)
            values.append(column.to_pylist())
        return values

    return plain(prepared), plain(read)


@pytest.mark.parametrize(
    "price",
    [
        *(pa.array([1, 2, None, 100], form) for form in (pa.int8(), pa.uint8(), pa.int64(), pa.uint64())),
        *(pa.array([0.1, float("nan"), None, 0.7], form) for form in (pa.float32(), pa.float64())),
        pa.array([0.5, float("inf"), None, -1], pa.float16()),
        pa.array([Decimal("0.7"), Decimal("0.1"), None, Decimal("-1.3")], pa.decimal128(18, 9)),
        pa.array([Decimal("0.7"), Decimal("0.1"), None, Decimal("-1.3")], pa.decimal128(38, 20)),
        pa.array([True, False, None, True]),
        pa.array([0.5, 1.5, None, 0.5]).dictionary_encode(),
        pa.array([None] * 4, pa.float64()),
    ],
    ids=lambda values: str(values.type),
)
def test_numbers_of_every_type_are_the_same_numbers(price: pa.Array, tmp_path: Path) -> None:
    prepared, read = read_both(tmp_path, {"price": price}, {})

    assert read == prepared


@pytest.mark.parametrize(
    ("ids", "missing"),
    [
        (pa.array([2**60 + 1, None, 2**60 + 2, -1]), [-1]),
        (pa.array([2**62 + 1, 1, None, 2], pa.uint64()), [2]),
        (pa.array([1, None, 3, 4], pa.int16()), []),
        (pa.array(["007", None, "7", " 7 "]), ["7"]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), ["b"]),
        (pa.array(["a", "b", None, "ä"], pa.large_string()), []),
    ],
    ids=str,
)
def test_ids_are_the_same_ids_and_what_means_none_is_none(ids: pa.Array, missing: list[Any], tmp_path: Path) -> None:
    table = {"missing": {"user_id": missing}} if missing else {}
    prepared, read = read_both(tmp_path, {"user_id": ids}, table)

    assert read == prepared
    assert read[1].count(None) == ids.null_count + len(missing)


@pytest.mark.parametrize(
    ("group", "segment"),
    [
        (pa.array([True, False, True, False]), {"names": {"true": "new", "false": "old"}}),
        (pa.array([1, 2, 1, 2], pa.int8()), {"names": {"1": "new", "2": "old"}}),
        (pa.array([1.0, 2.0, 1.0, 2.0]), {"names": {"1": "new", "2": "old"}}),
        (pa.array([date(2020, 1, 1), date(2020, 1, 2)] * 2), {"names": {"2020-01-01": "new", "2020-01-02": "old"}}),
        (
            pa.array([86_400, 0] * 2, pa.timestamp("s", "Asia/Tokyo")),
            {"names": {"1970-01-02": "new", "1970-01-01": "old"}},
        ),
        (pa.array([1.5, 3, 1, 7]), {"bins": [2]}),
        (pa.array([1, 3, 1, 7], pa.uint8()), {"bins": [2.5]}),
        (pa.array(["new", "old"] * 2).dictionary_encode(), {}),
    ],
    ids=str,
)  # fmt: skip
def test_segments_are_the_same_segments(group: pa.Array, segment: dict[str, Any], tmp_path: Path) -> None:
    prepared, read = read_both(tmp_path, {"band": group}, {"segment": {"column": "band", **segment}})

    assert read == prepared
    assert set(read[0]) == {"new", "old"}


@pytest.mark.parametrize(
    ("tags", "table"),
    [
        (
            pa.array(["Comedy, Drama", "", None, "Drama,, Film-Noir ,"]),
            {"lists": {"tags": {"column": "tags", "separator": ","}}},
        ),
        (pa.array(["a.b", "a|b", ".", "a"]), {"lists": {"tags": {"column": "tags", "separator": "."}}}),
        (pa.array(["The ÉTÉ, again!", "l'été", None, "日本 7"]), {"words": {"tags": "tags"}}),
        (pa.array([["a", None], [], None, ["b"]]), {}),
        (pa.array([[2**60 + 1, -1], [], None, [2**60, None]]), {"missing": {"tags": [-1]}}),
        (pa.array([["a", "b"], ["b", "c"], None, ["c", "d"]], pa.list_(pa.string(), 2)), {}),
    ],
    ids=str,
)  # fmt: skip
def test_lists_are_the_same_lists(tags: pa.Array, table: dict[str, Any], tmp_path: Path) -> None:
    prepared, read = read_both(tmp_path, {"tags": tags}, table, features=[*SCHEMA["features"], TAGS])

    assert read == prepared


@pytest.mark.parametrize(
    "form", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.int32())], ids=str
)
def test_vectors_are_the_same_vectors(form: pa.DataType, tmp_path: Path) -> None:
    columns = {"picture": pa.array([[1, 2], [3, 4], None, [5, 6]], form)}
    features = [*SCHEMA["features"], feature("image", width=2, fill=0)]
    prepared, read = read_both(tmp_path, columns, {"columns": {"image": "picture"}}, features=features)

    assert read == prepared
    assert read[-1] == [2, 4, None, 6]


def test_the_declared_column_is_read_where_another_has_the_features_name(tmp_path: Path) -> None:
    columns = {"cost": [50.0, -1.0, 0.5, 7.0]}
    table = {"columns": {"price": "cost"}, "missing": {"price": -1}}
    prepared, read = read_both(tmp_path, columns, table)

    assert read == prepared
    assert read[-1] == [50, None, 0.5, 7]
