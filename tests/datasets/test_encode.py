"""Raw rows -> encoded folder."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.errors import CannotWriteError, DataError
from recsys.features.schema import FeatureSchema, Scale
from tests.worlds import MadeSource, world_rows, world_schema

DAYS = {"train": 2, "validation": 1}
EXTRAS = ("user_key", "query", "is_new_to_user")


def encoded(folder: Path, rows: pa.Table, schema: FeatureSchema | None = None, threads: int = 1) -> EncodedDataset:
    encode(MadeSource(rows, EXTRAS), schema or world_schema(), folder, memory_limit="200MB", threads=threads)
    return open_encoded(folder)


def rows_of(dataset: EncodedDataset, split: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(file, page_checksum_verification=True) for file in dataset.files(split))


def with_column(rows: pa.Table, name: str, values: list | pa.Array) -> pa.Table:
    form = rows.schema.field(name).type
    column = values if isinstance(values, pa.Array) else pa.array(values, form)
    return rows.set_column(rows.schema.get_field_index(name), name, column)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return world_rows(DAYS, rows_per_day=50, seed=1)


def test_the_same_rows_give_the_same_bytes_whatever_their_order_and_the_number_of_threads(tmp_path, rows):
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))

    encoded(tmp_path / "one", rows)
    encoded(tmp_path / "two", shuffled, threads=2)

    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_other_rows_give_other_bytes(tmp_path, rows):
    encoded(tmp_path / "one", rows)
    encoded(tmp_path / "two", world_rows(DAYS, rows_per_day=50, seed=2))

    assert digests(tmp_path / "one") != digests(tmp_path / "two")


def test_validation_rows_do_not_move_the_vocabulary_or_the_scaling(tmp_path, rows):
    train = rows.filter(pc.equal(rows["split"], "train"))
    later = rows.filter(pc.equal(rows["split"], "validation"))
    odd = with_column(later, "price", [1e6] * len(later))
    odd = with_column(odd, "item_id", ["never seen"] * len(later))

    without, with_odd = encoded(tmp_path / "a", train), encoded(tmp_path / "b", pa.concat_tables([train, odd]))

    assert without.contract == with_odd.contract
    assert set(rows_of(with_odd, "validation")["item_id"].to_pylist()) == {0}
    assert with_odd.manifest.counts["ids unknown: item_id"] == len(later)


def test_rows_of_a_table_are_numbered_by_count_then_by_id(tmp_path, rows):
    train = rows.filter(pc.equal(rows["split"], "train")).slice(0, 4)
    train = with_column(train, "item_id", ["b", "c", "a", "b"])
    train = with_column(train, "recent_item_ids", [["c"], ["d", "d", "d"], None, []])

    dataset = encoded(tmp_path / "e", train)

    # d three times, b twice, c twice (once in a list), a once.
    assert dataset.vocabulary("item_id").ids.to_pylist() == ["d", "b", "c", "a"]
    assert dataset.contract.table_rows["item_id"] == 5
    assert dataset.manifest.counts["lists missing: recent_item_ids"] == 1


def test_dense_features_are_filled_transformed_and_scaled_by_hand(tmp_path, rows):
    train = rows.filter(pc.equal(rows["split"], "train")).slice(0, 4)
    train = with_column(train, "price", [0.0, np.e - 1, 0.0, np.e - 1])
    train = with_column(train, "days_away", pa.array([10.0, 20.0, None, float("nan")], from_pandas=False))

    dataset = encoded(tmp_path / "e", train)
    table = rows_of(dataset, "train").sort_by("time")

    # log(1 + price) is 0, 1, 0, 1: centre 0.5, spread 0.5. days_away is 10, 20, 30, 30 after the fill: centre 22.5.
    assert table["price"].to_pylist() == pytest.approx([-1, 1, -1, 1], abs=1e-6)
    scaling = dataset.contract.scaling["days_away"]
    assert (scaling.centre, scaling.spread) == pytest.approx((22.5, np.std([10, 20, 30, 30])), rel=1e-7)
    assert dataset.manifest.counts["values filled: days_away"] == 2


def test_a_feature_that_never_varies_is_centred_and_not_divided_by_zero(tmp_path, rows):
    dataset = encoded(tmp_path / "e", with_column(rows, "price", [3.0] * len(rows)))

    assert dataset.contract.scaling["price"].spread == 1.0
    assert set(rows_of(dataset, "train")["price"].to_pylist()) == {0.0}


def test_an_unscaled_feature_keeps_its_values(tmp_path, rows):
    schema = world_schema()
    plain = tuple(dataclasses.replace(f, scale=Scale.NONE) if f.name == "price" else f for f in schema.features)

    dataset = encoded(tmp_path / "e", rows, dataclasses.replace(schema, features=plain))

    raw = rows.filter(pc.equal(rows["split"], "validation")).sort_by("clicked_at")["price"].to_numpy()
    assert np.array_equal(np.sort(rows_of(dataset, "validation")["price"].to_numpy()), np.sort(raw.astype(np.float32)))
    assert "price" not in dataset.contract.scaling


def test_lists_lose_their_nulls_and_keep_their_last_ids(tmp_path, rows):
    train = rows.filter(pc.equal(rows["split"], "train")).slice(0, 3)
    train = with_column(train, "item_id", ["a", "b", "c"])
    train = with_column(train, "recent_item_ids", [["a", None, "b"], ["a", "a", "b", None, "c", "b"], [None]])

    dataset = encoded(tmp_path / "e", train)
    name_of = {0: None, **{row + 1: name for row, name in enumerate(dataset.vocabulary("item_id").ids.to_pylist())}}
    lists = rows_of(dataset, "train").sort_by("time")["recent_item_ids"].to_pylist()

    assert [[name_of[row] for row in ids] for ids in lists] == [["a", "b"], ["b", "c", "b"], []]
    assert dataset.manifest.counts["ids missing in lists: recent_item_ids"] == 3
    assert dataset.manifest.counts["lists cut: recent_item_ids"] == 1


def test_null_and_negative_ids_get_the_unknown_row_and_are_counted(tmp_path, rows):
    users = rows["user_id"].to_pylist()
    users[0], users[1] = None, -1

    dataset = encoded(tmp_path / "e", with_column(rows, "user_id", users))

    train = rows_of(dataset, "train")["user_id"].to_pylist()
    assert train.count(0) == 2
    assert dataset.manifest.counts["ids missing: user_id"] == 1
    assert dataset.manifest.counts["ids invalid: user_id"] == 1
    assert min(dataset.vocabulary("user_id").ids.to_pylist()) >= 0


def test_ids_beyond_64_bits_are_invalid_and_never_another_id(tmp_path, rows):
    users = pa.array([2**64 - 1, *rows["user_id"].to_pylist()[1:]], pa.uint64())
    wide = rows.drop_columns("user_id").append_column("user_id", users)

    dataset = encoded(tmp_path / "e", wide)

    assert dataset.manifest.counts["ids invalid: user_id"] == 1
    assert rows_of(dataset, "train")["user_id"].to_pylist().count(0) == 1


def test_a_column_full_of_negative_ids_stops_the_preparation(tmp_path, rows):
    users = [-5] * 20 + rows["user_id"].to_pylist()[20:]

    with pytest.raises(DataError, match=r"Column `user_id`: 20 ids in 150 rows are negative.* at most 1%"):
        encoded(tmp_path / "e", with_column(rows, "user_id", users))


def test_rows_lie_in_time_order_in_files_by_split_and_day(tmp_path, rows):
    dataset = encoded(tmp_path / "e", rows.take(np.random.default_rng(0).permutation(len(rows))))

    assert dataset.days("train") == {"2011-06-28": 50, "2011-06-29": 50}
    assert [str(file.relative_to(dataset.root)) for file in dataset.files("validation")] == [
        "split=validation/day=2011-06-30/part-0.parquet"
    ]
    times = pq.read_table(dataset.files("train")[0])["time"].to_pylist()
    assert times == sorted(times)


def test_a_flipped_bit_in_a_page_is_found_by_its_checksum(tmp_path, rows):
    file = encoded(tmp_path / "e", rows).files("train")[0]
    start = pq.read_metadata(file).row_group(0).column(0).dictionary_page_offset
    damaged = bytearray(file.read_bytes())
    damaged[start + 40] ^= 1
    file.write_bytes(damaged)

    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        pq.read_table(file, page_checksum_verification=True)


def test_every_encoded_column_says_that_it_has_no_null(tmp_path, rows):
    schema = pq.read_schema(encoded(tmp_path / "e", rows).files("train")[0])

    assert not any(field.nullable for field in schema)
    assert str(schema.field("user_id").type) == "int32"
    assert str(schema.field("price").type) == "float"
    assert str(schema.field("time").type) == "timestamp[us, tz=UTC]"


def test_the_manifest_counts_rows_and_names_the_source(tmp_path, rows):
    source = MadeSource(rows, EXTRAS, {"files": {"rows.parquet": "sha256:1"}})

    encode(source, world_schema(), tmp_path / "e", memory_limit="200MB", threads=1)
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())

    assert manifest["source"] == {"files": {"rows.parquet": "sha256:1"}}
    assert manifest["files"]["split=train/day=2011-06-28/part-0.parquet"]["rows"] == 50
    assert manifest["splits"] == {"train": {"2011-06-28": 50, "2011-06-29": 50}, "validation": {"2011-06-30": 50}}


def test_a_failure_leaves_nothing_behind_and_the_old_folder_untouched(tmp_path, rows):
    encoded(tmp_path / "e", rows)
    before = digests(tmp_path)

    with pytest.raises(DataError):
        encoded(tmp_path / "e", with_column(rows, "clicked", [2] * len(rows)))

    assert digests(tmp_path) == before


def test_a_target_that_cannot_be_written_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(CannotWriteError, match="file"):
        encode(None, world_schema(), tmp_path / "file" / "encoded", memory_limit="200MB", threads=1)  # type: ignore[arg-type]


def test_every_part_says_what_its_rows_hold(tmp_path, rows):
    rows = with_column(rows, "price", pa.array([1.0] * len(rows)))
    rows = with_column(rows, "item_id", ["new"] * 5 + rows["item_id"].to_pylist()[5:-3] + ["unseen", "unseen", None])
    dataset = encoded(tmp_path / "e", rows)

    raw = rows.to_pandas()
    for split, days in dataset.manifest.splits.items():
        for day in days:
            entry = dataset.manifest.files[f"split={split}/day={day}/part-0.parquet"]
            of_day = raw[raw["day"].astype(str) == day]
            lists = of_day["recent_item_ids"].map(len)
            train = raw[raw["split"] == "train"]
            known = {*train["item_id"].dropna(), *train["recent_item_ids"].explode().dropna()}
            expected = {
                "positives": of_day["clicked"].sum(),
                **{f"segment: {name}": number for name, number in of_day["activity"].value_counts().items()},
                "values filled: days_away": of_day["days_away"].isna().sum(),
                "ids missing: country": of_day["country"].isna().sum(),
                "ids missing: item_id": of_day["item_id"].isna().sum(),
                "ids: user_id": len(of_day),
                "ids: item_id": of_day["item_id"].notna().sum(),
                "ids: country": of_day["country"].notna().sum(),
                "ids: recent_item_ids": lists.sum(),
                "lists empty: recent_item_ids": (lists == 0).sum(),
                "ids unknown: item_id": (~of_day["item_id"].dropna().isin(known)).sum(),
                "ids unknown: recent_item_ids": (~of_day["recent_item_ids"].explode().dropna().isin(known)).sum(),
            }
            found = {what: number for what, number in entry.profile.items() if what != "lists cut: recent_item_ids"}
            assert entry.rows == len(of_day)
            assert found == {what: number for what, number in expected.items() if number}
