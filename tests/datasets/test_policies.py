"""A schema's policies in the preparation: the same words, the same rows and the same counts as in the stream."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema, load_schema
from tests.worlds import MadeSource, world_rows, world_schema

ROWS = world_rows({"train": 2, "validation": 1}, rows_per_day=20, seed=0)


def schema_with(**changed: object) -> FeatureSchema:
    document = world_schema().to_document()
    for feature in document["features"]:
        if feature["name"] == "price":
            feature["maximum"] = 100
    return FeatureSchema.from_document({**document, **changed})


def prepared(tmp_path: Path, rows: pa.Table, schema: FeatureSchema) -> EncodedDataset:
    encode(MadeSource(rows), schema, tmp_path / "encoded", memory_limit="200MB", threads=1)
    return open_encoded(tmp_path / "encoded")


def changed(**values: dict[int, object]) -> pa.Table:
    """The rows with single values of some columns changed, by row."""
    rows = ROWS
    for name, by_row in values.items():
        column = rows[name].to_pylist()
        for row, value in by_row.items():
            column[row] = value
        form = rows.schema.field(name).type
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(column, form, from_pandas=False))
    return rows


def column_of(dataset: EncodedDataset, name: str) -> list[object]:
    return pa.concat_tables(pq.read_table(path) for path in dataset.files("train"))[name].to_pylist()


def test_numbers_outside_their_range_are_clipped_before_anything_is_fitted(tmp_path):
    dirty = prepared(tmp_path, changed(price={0: 1e6, 3: -5.0}), schema_with(invalid={"price": "clip"}))
    clean = prepared(tmp_path / "clean", changed(price={0: 100.0, 3: 0.0}), schema_with())

    assert dirty.contract.scaling == clean.contract.scaling
    assert column_of(dirty, "price") == column_of(clean, "price")


def test_rows_are_dropped_counted_and_left_out_of_what_is_fitted(tmp_path):
    policies = {"price": "drop", "clicked": "drop", "user_id": "drop", "recent_item_ids": "drop"}
    dirty = changed(price={0: 1e6, 1: None}, clicked={1: None, 2: 7.0}, user_id={3: None})
    kept = [row for row in range(len(ROWS)) if row not in (0, 1, 2, 3)]

    dataset = prepared(tmp_path, dirty, schema_with(invalid=policies, most_dropped=0.1))

    clean = prepared(tmp_path / "clean", ROWS.take(kept), schema_with())
    assert sum(map(dataset.rows, ("train", "validation"))) == len(ROWS) - 4
    assert dataset.contract.scaling == clean.contract.scaling
    assert dataset.contract.table_rows == clean.contract.table_rows
    assert dataset.manifest.counts["rows dropped"] == 4
    assert dataset.manifest.counts["rows dropped: price"] == 2
    assert dataset.manifest.counts["rows dropped: clicked"] == 2
    assert dataset.manifest.counts["rows dropped: user_id"] == 1


def test_more_dropped_rows_than_the_cap_allows_stop_the_preparation(tmp_path):
    schema = schema_with(invalid={"price": "drop"}, most_dropped=0.04)  # 2.4 of 60 rows

    assert prepared(tmp_path, changed(price={0: 1e6, 1: 1e6}), schema).manifest.counts["rows dropped"] == 2
    with pytest.raises(DataError, match=r"3 of 60 rows are to be dropped .*more than 0.04"):
        prepared(tmp_path / "more", changed(price={0: 1e6, 1: 1e6, 2: 1e6}), schema)


def test_a_missing_id_stops_where_that_is_declared_and_is_unknown_otherwise(tmp_path):
    rows = changed(user_id={0: None, 5: -1})

    assert prepared(tmp_path, changed(user_id={0: None}), schema_with()).manifest.counts["ids missing: user_id"] == 1
    with pytest.raises(DataError, match=r"column `user_id` holds .* in 2 of 60 rows; expected an id in every row"):
        prepared(tmp_path / "stop", rows, schema_with(invalid={"user_id": "stop"}))


def test_what_clip_cannot_mend_still_stops(tmp_path):
    with pytest.raises(DataError, match=r"`price` holds no value .* in 1 of 60 rows"):
        prepared(tmp_path, changed(price={0: None}), schema_with(invalid={"price": "clip"}))


def test_a_table_source_spreads_vectors_over_their_elements(tmp_path):
    (tmp_path / "schema.yaml").write_text(
        """
name: pictures
features:
  - {name: user_id, kind: sparse, used_by: [user_tower]}
  - {name: item_id, kind: sparse, used_by: [item_tower]}
  - {name: image, kind: dense, width: 2, scale: none, fill: -1, used_by: [item_tower]}
segment: group
segments: [a]
label: clicked
time: at
user: user_id
item: item_id
table:
  files: "*.parquet"
  label: clicked
  time: {column: at, unit: timestamp}
  segment: {column: group}
  splits: {column: fold, train: x, validation: y, test: z}
"""
    )
    when = [datetime.datetime(2011, 7, 1)] * 4
    image = pa.array([[0.5, 1.5], [2.5, 3.5], None, [4.5, 5.5]], pa.list_(pa.float32()))
    table = pa.table(
        {"user_id": [1, 2, 1, 2], "item_id": [5, 5, 6, 6], "image": image, "group": ["a"] * 4, "clicked": [0, 1, 0, 1],
         "at": when, "fold": ["x", "x", "x", "y"]}
    )  # fmt: skip
    (tmp_path / "raw").mkdir()
    pq.write_table(table, tmp_path / "raw" / "rows.parquet")
    schema = load_schema(tmp_path / "schema.yaml")
    source = TableSource(tmp_path / "raw", load_table_layout(tmp_path / "schema.yaml", schema))

    encode(source, schema, tmp_path / "encoded", memory_limit="200MB", threads=1)

    dataset = open_encoded(tmp_path / "encoded")
    found = set(zip(column_of(dataset, "image[0]"), column_of(dataset, "image[1]"), strict=True))
    assert found == {(0.5, 1.5), (2.5, 3.5), (-1.0, -1.0)}
