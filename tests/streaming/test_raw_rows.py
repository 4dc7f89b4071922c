"""Rows that nobody prepared stream as if they had been: whatever types, codecs and folders their writer chose."""

from decimal import Decimal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError, UsageError
from recsys.features.vocabulary import Vocabulary
from recsys.streaming.loader import BatchStream
from recsys.streaming.rows import RawRows
from tests.streaming.raw import COLUMNS, EXPECTED, VOCABULARIES, raw_contract, raw_stream, values_of, write_raw


def test_raw_rows_come_as_batches_of_encoded_ones(tmp_path):
    write_raw(tmp_path / "rows.parquet")

    assert values_of(raw_stream(tmp_path)) == EXPECTED


@pytest.mark.parametrize("compression", ["zstd", "snappy", "lz4", "gzip", "brotli", "none"])
@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_codecs_encodings_and_page_versions_change_nothing(tmp_path, compression, use_dictionary, version):
    how = {"compression": compression, "use_dictionary": use_dictionary, "data_page_version": version}
    write_raw(tmp_path / "rows.parquet", **how)

    assert values_of(raw_stream(tmp_path)) == EXPECTED


@pytest.mark.parametrize(
    "changed",
    [
        {"price": pa.array([Decimal("10.00"), Decimal("14.00"), Decimal("6.00"), Decimal("10.00")])},
        {"price": pa.array([10, 14, 6, 10], pa.float16())},
        {"price": pa.array([10, 14, 6, 10], pa.uint8())},
        {"image": pa.array([[0.5, 1.5], [2.5, 3.5], None, [0, 1]], pa.list_(pa.float16()))},
        {"user_id": pa.array([7, 2**40, 2**64 - 1, 9], pa.uint64())},
        {"user_id": pa.array([7.0, 2.0**40, None, 9.0])},
        {"user_id": pa.array(["7", str(2**40), "5", "9"])},
        {"item_id": COLUMNS["item_id"].dictionary_encode()},
        {"item_id": COLUMNS["item_id"].cast(pa.large_string())},
        {"item_id": COLUMNS["item_id"].cast(pa.binary())},
        {"recent": COLUMNS["recent"].cast(pa.large_list(pa.large_string()))},
        {"recent": COLUMNS["recent"].cast(pa.list_(pa.dictionary(pa.int32(), pa.string())))},
        {"recent": pa.array([[["mug"], ["lamp", "tray"]], [[]], None, [[], ["pot"]]])},
        {"activity": COLUMNS["activity"].dictionary_encode()},
        {"clicked": pa.array([True, False, False, True])},
        {"clicked": pa.array([1.0, 0, 0, 1])},
        {"user_key": pa.array([0, 1, 2, 3], pa.uint16())},
    ],
    ids=lambda changed: " ".join(f"{name} {values.type}" for name, values in changed.items()),
)
def test_a_column_of_another_type_holds_the_same_values(tmp_path, changed):
    write_raw(tmp_path / "rows.parquet", changed)

    assert values_of(raw_stream(tmp_path)) == EXPECTED


def test_files_of_one_split_may_differ_in_types(tmp_path):
    write_raw(tmp_path / "part-1.parquet")
    write_raw(tmp_path / "part-2.parquet", {"user_id": COLUMNS["user_id"].cast(pa.string())})
    write_raw(tmp_path / "part-10.parquet", {"price": COLUMNS["price"].cast(pa.float32())})

    assert values_of(raw_stream(tmp_path)) == {name: values * 3 for name, values in EXPECTED.items()}


def test_folders_name_columns_splits_and_days(tmp_path):
    for split, day, activity in (("train", "2011-06-30", "heavy"), ("train", "2011-07-01", "cold"), ("test", "x", "y")):
        folder = tmp_path / f"split={split}" / f"day={day}" / f"activity={activity}"
        write_raw(folder / "part-0.parquet", {"activity": None})

    assert values_of(raw_stream(tmp_path))["segment"] == [1] * 4 + [0] * 4
    assert values_of(raw_stream(tmp_path, days=["2011-07-01"]))["segment"] == [0] * 4


def test_a_folder_names_numbers_and_ids_too_and_says_where_there_are_none(tmp_path):
    write_raw(tmp_path / "price=14.0" / "user_id=9" / f"item_id={quote('mug')}" / "a.parquet",
              {"price": None, "user_id": None, "item_id": None})  # fmt: skip
    write_raw(tmp_path / "price=10" / "user_id=__HIVE_DEFAULT_PARTITION__" / "item_id=pot" / "b.parquet",
              {"price": None, "user_id": None, "item_id": None})  # fmt: skip

    found = values_of(raw_stream(tmp_path))

    assert [row[0] for row in found["dense"]] == [0] * 4 + [1] * 4  # price=10 comes before price=14.0
    assert found["user_id"] == [0] * 4 + [3] * 4
    assert found["item_id"] == [0] * 4 + [1] * 4


def test_a_folder_that_names_a_column_of_its_files_is_refused_however_many_files_come_before(tmp_path):
    write_raw(tmp_path / "a.parquet")
    write_raw(tmp_path / "Price=5" / "a.parquet")

    with pytest.raises(DataError, match=r"a column `price`, and its folder `Price=5` names it too"):
        raw_stream(tmp_path)


def test_folders_above_the_rows_name_nothing(tmp_path):
    write_raw(tmp_path / "price=5" / "split=test" / "a.parquet")

    assert values_of(raw_stream(tmp_path / "price=5" / "split=test")) == EXPECTED


def test_links_are_followed_round_no_circle(tmp_path):
    write_raw(tmp_path / "blobs" / "0a1b")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.parquet").symlink_to(tmp_path / "blobs" / "0a1b")
    (tmp_path / "rows" / "circle").symlink_to(tmp_path / "rows")

    assert values_of(raw_stream(tmp_path / "rows")) == EXPECTED
    (tmp_path / "rows" / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone.parquet: its footer cannot be read"):
        raw_stream(tmp_path / "rows")


def test_a_split_is_chosen_by_folder_where_folders_name_splits(tmp_path):
    write_raw(tmp_path / "split=train" / "a.parquet")

    with pytest.raises(DataError, match="0 rows for split `test`"):
        raw_stream(tmp_path, split="test")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"price": None}, r"Column `price` is missing; found image, user_id"),
        ({"image": None}, r"Column `image` is missing; .*expected price, image, user_id"),
        ({"clicked": None}, r"Column `clicked` is missing"),
        ({"user_key": None}, r"Column `user_key` is missing"),
        ({"price": COLUMNS["activity"]}, "column `price` has type string; expected numbers"),
        ({"item_id": COLUMNS["recent"]}, r"column `item_id` has type list<.*>; expected ids as strings"),
        ({"recent": COLUMNS["item_id"]}, "column `recent` has type string; expected a list of ids"),
        ({"image": COLUMNS["price"]}, "column `image` has type double; expected vectors"),
        ({"price": pa.array([{"euro": 1}] * 4)}, "column `price` has type struct<.*>; expected numbers"),
    ],
)
def test_a_file_that_cannot_be_read_under_the_schema_is_refused_by_its_footer(tmp_path, changed, message):
    write_raw(tmp_path / "part-1.parquet")
    second = write_raw(tmp_path / "part-2.parquet", changed)

    with pytest.raises(DataError, match=message) as raised:
        raw_stream(tmp_path)

    assert str(second) in str(raised.value)


def test_a_vector_and_a_list_that_share_their_bytes_are_told_apart_by_the_footer(tmp_path):
    fixed = pa.array([["mug", "mug"]] * 4, pa.list_(pa.string(), 2))
    write_raw(tmp_path / "part-1.parquet")
    write_raw(tmp_path / "part-2.parquet", {"recent": fixed})

    assert values_of(raw_stream(tmp_path))["recent"] == [*EXPECTED["recent"], *[[1, 1]] * 4]


def test_values_are_named_by_file_row_group_and_column(tmp_path):
    path = write_raw(tmp_path / "rows.parquet", {"price": pa.array([10.0, 200.0, 6.0, 10.0])}, row_group_size=2)

    with pytest.raises(DataError) as raised:
        values_of(raw_stream(tmp_path))

    message = f"{path}, row group 0, column `price` holds 200.0 in 1 of 2 rows; expected a number in [0.0, 100.0]"
    assert str(raised.value).startswith(message)


def test_damaged_pages_are_found_by_their_checksums(tmp_path):
    path = write_raw(tmp_path / "rows.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    column = pq.read_metadata(path).row_group(0).column(0)
    whole = bytearray(path.read_bytes())
    whole[column.data_page_offset + column.total_compressed_size - 1] ^= 1  # the exponent of the last price
    path.write_bytes(whole)

    with pytest.raises(DataError, match=r"row group 0, column `price`: cannot be decoded \(.*[cC][rR][cC]"):
        values_of(raw_stream(tmp_path))


def test_vocabularies_of_other_data_are_refused(tmp_path):
    write_raw(tmp_path / "rows.parquet")
    other = Vocabulary.of("item", ["mug", "lamp", "vase"])

    def open_with(vocabularies):
        return BatchStream(
            RawRows(tmp_path, vocabularies), "train", raw_contract(), batch_size=4, seed=0, shuffle=False,
            shuffle_buffer_rows=4, decode_threads=0, device="cpu",
        )  # fmt: skip

    with pytest.raises(DataError, match=r"vocabulary for table `item` has 4 rows and fingerprint .*; the contract has"):
        open_with({**VOCABULARIES, "item": other})
    with pytest.raises(UsageError, match=r"Raw rows need a vocabulary for table `item`"):
        open_with({"user_id": VOCABULARIES["user_id"]})
