"""Raw id -> table row: the same row for the same id, row 0 for all others, and a fingerprint of exactly that."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary

IDS = st.lists(st.text(max_size=4), unique=True, max_size=8) | st.lists(
    st.integers(-(2**63), 2**63 - 1), unique=True, max_size=8
)


def test_ids_get_rows_from_one_and_strangers_row_zero() -> None:
    words, numbers = Vocabulary.of("item", ["lamp", "mug"]), Vocabulary.of("user", [70, 7])

    assert words.rows_of(["mug", "lamp", "teapot", "LAMP", None]).tolist() == [2, 1, 0, 0, 0]
    assert numbers.rows_of([7, 70, 8, -1, 2**40]).tolist() == [2, 1, 0, 0, 0]
    assert numbers.rows_of(["7", "70"]).tolist() == [2, 1]
    assert words.rows_of([]).tolist() == []
    assert words.rows_of(["mug"]).dtype == np.int64
    assert (len(words), len(numbers), UNKNOWN_ROW) == (3, 3, 0)


@given(ids=IDS)
def test_saved_vocabulary_reads_back_with_the_same_rows_and_fingerprint(
    ids: list[str] | list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "item.parquet"
    vocabulary = Vocabulary.of("item", ids)
    vocabulary.save(path)
    again = Vocabulary.load(path)

    assert again.table == "item"
    assert again.ids.to_pylist() == ids
    assert again.fingerprint == vocabulary.fingerprint
    assert again.rows_of(ids).tolist() == list(range(1, len(ids) + 1))


@given(first=IDS, second=IDS)
def test_fingerprints_are_equal_exactly_where_ids_types_and_order_are(
    first: list[str] | list[int], second: list[str] | list[int]
) -> None:
    one, other = Vocabulary.of("item", first), Vocabulary.of("item", second)
    assert (one.fingerprint == other.fingerprint) == (one.ids.equals(other.ids))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["a", "b"], ["b", "a"]),
        (["a", "b"], ["a"]),
        (["ab", "c"], ["a", "bc"]),
        (["a", ""], ["", "a"]),
        (["1"], [1]),
        ([1, 2], [2, 1]),
        ([1], [1, 0]),
        ([0], [0, 0][:0]),
    ],
)
def test_fingerprint_tells_near_vocabularies_apart(first: list[str] | list[int], second: list[str] | list[int]) -> None:
    assert Vocabulary.of("item", first).fingerprint != Vocabulary.of("item", second).fingerprint


@given(ids=IDS, padding=st.integers(0, 3), cut=st.integers(0, 8))
def test_fingerprint_does_not_depend_on_how_arrow_lays_the_ids_out(
    ids: list[str] | list[int], padding: int, cut: int
) -> None:
    vocabulary = Vocabulary.of("item", ids)
    kind = vocabulary.ids.type
    before = pa.array(["x" * 9 if pa.types.is_string(kind) else 9] * padding, type=kind)
    after = pa.array(["y" if pa.types.is_string(kind) else 5], type=kind)
    sliced = pa.concat_arrays([before, vocabulary.ids, after])[padding : padding + len(ids)]
    chunked = pa.chunked_array([vocabulary.ids[:cut], vocabulary.ids[cut:]], type=kind)

    assert Vocabulary("item", sliced).fingerprint == vocabulary.fingerprint
    assert Vocabulary("item", chunked).fingerprint == vocabulary.fingerprint


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (pa.array([1, 2], type=pa.int32()), pa.array([1, 2], type=pa.int64())),
        (pa.array(["a"], type=pa.large_string()), pa.array(["a"], type=pa.string())),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"])),
    ],
)
def test_ids_of_another_width_are_the_same_vocabulary(narrow: pa.Array, wide: pa.Array) -> None:
    assert Vocabulary("item", narrow).fingerprint == Vocabulary("item", wide).fingerprint


def test_fingerprint_of_a_million_ids_takes_no_python_loop() -> None:
    vocabulary = Vocabulary("item", pa.array(np.arange(1_000_000)).cast(pa.string()))
    started = time.process_time()
    assert vocabulary.fingerprint
    # A loop over ids takes over a second, hashing the buffers under ten milliseconds: room for any machine.
    assert time.process_time() - started < 0.5


def test_null_ids_are_refused() -> None:
    with pytest.raises(DataError, match="vocabulary of table `item` holds 1 null ids; expected none"):
        Vocabulary("item", pa.array(["a", None]))


def test_values_that_cannot_be_ids_are_refused_with_the_table_and_its_type() -> None:
    with pytest.raises(DataError, match=r"Table `user` has ids of type int64.*Failed to parse string: 'lamp'"):
        Vocabulary.of("user", [1]).rows_of(["lamp"])


def test_missing_or_torn_file_is_refused_with_its_path_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "item.parquet"
    Vocabulary.of("item", ["lamp", "mug"]).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    for broken in (path, tmp_path / "absent.parquet"):
        with pytest.raises(DataError, match=rf"{broken.name} cannot be read .*Run `recsys prepare` again"):
            Vocabulary.load(broken)


@pytest.mark.parametrize("missing", ["id", "row"])
def test_file_without_a_column_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "item.parquet"
    pq.write_table(pa.table({"id": ["lamp"], "row": [1]}).drop_columns(missing), path)
    with pytest.raises(DataError, match="expected Parquet with the columns `id` and `row`"):
        Vocabulary.load(path)


@pytest.mark.parametrize("rows", [[0, 1], [2, 1], [1, 3], [1, 1], [1, None]])
def test_file_whose_rows_do_not_count_up_is_refused(tmp_path: Path, rows: list[int]) -> None:
    path = tmp_path / "item.parquet"
    pq.write_table(pa.table({"id": ["lamp", "mug"], "row": rows}), path)
    with pytest.raises(DataError, match="does not number its rows 1, 2, 3"):
        Vocabulary.load(path)


def test_no_flipped_bit_in_the_ids_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "item.parquet"
    vocabulary = Vocabulary("item", pa.array(np.random.default_rng(3).integers(0, 2**60, 500)))
    vocabulary.save(path)
    whole = path.read_bytes()
    num_refused = 0
    for position in np.random.default_rng(4).integers(4, len(whole) - 600, 30):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(bytes(damaged))
        try:
            found = Vocabulary.load(path).fingerprint
        except DataError:
            num_refused += 1
        else:
            # A bit of Parquet's own bookkeeping may change nothing that is read.
            assert found == vocabulary.fingerprint
    assert num_refused > 20


@pytest.mark.parametrize(
    "ids",
    [[7, 0, 3], [7, 0, 3, 10**15], [2**62], [-4, 7, 3], [0]],
    ids=["close together", "far apart", "one huge id", "a negative id", "zero alone"],
)
def test_rows_are_the_same_whether_ids_lie_close_together_or_far_apart(ids: list[int]) -> None:
    vocabulary = Vocabulary.of("item_id", ids)
    asked = [*ids, 1, 4, 8, 9, -1, -(2**63), 2**63 - 1, None]

    rows = vocabulary.rows_of(pa.array(asked, pa.int64()))

    expected = {number: row for row, number in enumerate(ids, start=1)}
    assert rows.dtype == np.int64
    assert rows.tolist() == [expected.get(number, 0) for number in asked]


def test_rows_of_a_part_of_an_array_are_those_of_that_part() -> None:
    vocabulary = Vocabulary.of("item_id", [5, 6, 7])

    assert vocabulary.rows_of(pa.array([7, 7, 6, 5, 9, None])[2:5]).tolist() == [2, 1, 0]


def test_floats_are_looked_up_by_nobody():
    with pytest.raises(DataError, match="floating-point numbers"):
        Vocabulary.of("user_id", [2**53]).rows_of(pa.array([2.0**53]))
