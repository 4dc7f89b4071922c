"""Columns in whatever type a writer chose become the same encoded columns, and policies do what they say."""

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.errors import DataError
from recsys.features.account import Account
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.encoding import encode_feature, encode_label, encode_segment, encode_weight
from recsys.features.policy import Policy
from recsys.features.raw import raw_column, raw_to_batch
from recsys.features.schema import Feature, FeatureKind, Scale
from recsys.features.vocabulary import Vocabulary
from tests.worlds import world_schema

WORDS = Vocabulary.of("word", ["mug", "lamp", "tray"])
NUMBERS = Vocabulary.of("number", [10, 20, 2**40])
PRICE = Feature("price", FeatureKind.DENSE, ("item_tower",), minimum=-5, maximum=100, scale=Scale.NONE)
FILLED = Feature("price", FeatureKind.DENSE, ("item_tower",), fill=7.0, scale=Scale.NONE)
WORD = Feature("word", FeatureKind.SPARSE, ("item_tower",), table="word")
NUMBER = Feature("number", FeatureKind.SPARSE, ("item_tower",), table="number")
RECENT = Feature("recent", FeatureKind.SPARSE_LIST, ("item_tower",), table="number", max_length=3)
CONTRACT = FeatureContract(
    world_schema(), table_rows={}, vocabulary_fingerprints={}, scaling={"scaled": Scaling(10.0, 4.0)}
)


def account_of(rows: int, **invalid: str) -> Account:
    return Account("rows.parquet, ", {name: Policy(word) for name, word in invalid.items()}, rows)


def encoded(values: pa.Array, feature: Feature, account: Account | None = None) -> list[Any]:
    account = account or account_of(len(values))
    array = encode_feature(values, feature, CONTRACT, {"word": WORDS, "number": NUMBERS}, account)
    assert array.null_count == 0
    return array.to_pylist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((pa.array([1, 2, 100], form), [1, 2, 100]) for form in
          (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
        *((pa.array([0.5, -1, 2], form), [0.5, -1, 2]) for form in (pa.float16(), pa.float32(), pa.float64())),
        (pa.array([Decimal("1.25"), Decimal("-5.00"), Decimal("99.99")]), [1.25, -5, np.float32(99.99)]),
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array([1.5, 1.5, 2.0]).dictionary_encode(), [1.5, 1.5, 2]),
        (pa.array([0, 1500, 3000], pa.timestamp("ms")), [0, 1.5, 3]),
        (pa.array([0, 2_000_000_000, 1], pa.timestamp("ns", "UTC")), [0, 2, np.float32(1e-9)]),
        (pa.array([60, 0, 1], pa.duration("s")), [60, 0, 1]),
        (pa.array([datetime.date(1970, 1, 1)] * 3), [0, 0, 0]),
    ],
)  # fmt: skip
def test_numbers_of_every_type_are_read_by_their_value(values, expected):
    assert encoded(values, PRICE) == expected


def test_dates_count_in_seconds_and_numbers_are_scaled_by_the_contract():
    day = Feature("scaled", FeatureKind.DENSE, ("item_tower",))

    assert encoded(pa.array([datetime.date(1970, 1, 2)]), day) == [(86_400 - 10) / 4]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((pa.array(["lamp", "pot", "mug"], form), [2, 0, 1]) for form in
          (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view())),
        (pa.array(["lamp", "pot", None, "lamp"]).dictionary_encode(), [2, 0, 0, 2]),
        (pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.uint8()), pa.array(["mug", "tray"], pa.large_string())),
         [3, 1]),
    ],
)  # fmt: skip
def test_text_ids_are_looked_up_however_they_are_stored(values, expected):
    assert encoded(values, WORD) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((pa.array([20, 10, 99], form), [2, 1, 0]) for form in
          (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
        (pa.array([2**40, 2**63, 2**64 - 1, 10], pa.uint64()), [3, 0, 0, 1]),
        (pa.array([10.0, float("nan"), 2.0**40]), [1, 0, 3]),
        (pa.array([Decimal(10), Decimal(20), None]), [1, 2, 0]),
        (pa.array(["10", "20"]), [1, 2]),
        (pa.array([None, None], pa.null()), [0, 0]),
        (pa.array([-10, 10]), [0, 1]),
    ],
)  # fmt: skip
def test_whole_numbers_of_every_width_are_ids(values, expected):
    assert encoded(values, NUMBER) == expected


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (pa.array([10.0, None, 2.0**53]), "9007199254740992; from 9007199254740992 on"),
        (pa.array([10.0, -(2.0**60)]), "-1152921504606846976; from 9007199254740992 on"),
        (pa.array([10.0, float("inf")]), "inf; from"),
        (pa.array([10.0, 2.0**24], pa.float32()), "16777216; from 16777216 on"),
        (pa.array([10.0, 2.0**60]).dictionary_encode(), "1152921504606846976; from"),
    ],
    ids=str,
)
def test_floats_that_stand_for_several_whole_numbers_are_no_ids(values, shown):
    for feature in (NUMBER, WORD):
        with pytest.raises(DataError, match=f"`{feature.name}` holds ids as floating-point numbers, such as {shown}"):
            encoded(values, feature)
    lists = pa.ListArray.from_arrays([0, len(values)], values)
    with pytest.raises(DataError, match=f"`recent` holds ids as floating-point numbers, such as {shown}"):
        encoded(lists, RECENT)


def test_whole_floats_below_are_ids_and_fractions_are_not():
    assert encoded(pa.array([10.0, float("nan"), 2.0**40, 2.0**53 - 1]), NUMBER) == [1, 0, 3, 0]
    assert encoded(pa.array([[20.0, float("nan"), 10.0]]), RECENT) == [[2, 1]]
    with pytest.raises(DataError, match="`number` has type double; expected integer ids"):
        encoded(pa.array([10.5, 2.0]), NUMBER)


@pytest.mark.parametrize(
    "column",
    [
        lambda texts: pa.array(map(float, texts), pa.float32()),
        lambda texts: pa.array(map(float, texts), pa.float32()).dictionary_encode(),
        lambda texts: pa.array(map(float, texts)),
        lambda texts: pa.array(map(Decimal, texts)),
    ],
)
def test_a_range_holds_its_own_ends_in_every_precision(column):
    share = Feature("price", FeatureKind.DENSE, ("item_tower",), minimum=0.7, maximum=0.8, scale=Scale.NONE)

    assert encoded(column(["0.7", "0.8"]), share) == [np.float32(0.7), np.float32(0.8)]
    clipped = encoded(column(["0.6", "0.9"]), share, account_of(2, price="clip"))
    assert clipped == [np.float32(0.7), np.float32(0.8)]
    wide = Feature("price", FeatureKind.DENSE, ("item_tower",), minimum=-1e300, maximum=1e300, scale=Scale.NONE)
    assert encoded(column(["0.6", "0.9"]), wide) == [np.float32(0.6), np.float32(0.9)]


def test_decimals_are_the_nearest_float():
    # Arrow's own cast makes 0.7 a little more, which lies outside of a range that ends there.
    share = Feature("price", FeatureKind.DENSE, ("item_tower",), minimum=0, maximum=0.7, scale=Scale.NONE)

    assert encoded(pa.array([Decimal("0.7"), Decimal("0.1")]), share) == [np.float32(0.7), np.float32(0.1)]


@pytest.mark.parametrize(
    "form",
    [
        pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int16()), pa.list_view(pa.int64()),
        pa.list_(pa.dictionary(pa.int8(), pa.int64())),
    ],
    ids=str,
)  # fmt: skip
def test_lists_of_every_layout_keep_their_last_ids(form):
    rows = [[10, 20], [], None, [10, 99, None, 20, 20]]

    assert encoded(pa.array(rows, form), RECENT) == [[1, 2], [], [], [0, 2, 2]]


def test_lists_of_fixed_size_and_lists_of_lists_are_lists_of_ids():
    fixed = pa.array([[10, 20], None, [20, 10]], pa.list_(pa.int32(), 2))
    nested = pa.array([[[10], [20, 99]], None, [], [None, [], [20]], [[10, 10], [20, 20]]])
    sliced = pa.array([[[10]], [[20]], [[10], [20, 10]]]).slice(1)

    assert encoded(fixed, RECENT) == [[1, 2], [], [2, 1]]
    assert encoded(nested, RECENT) == [[1, 2, 0], [], [], [2], [1, 2, 2]]
    assert encoded(sliced, RECENT) == [[2], [1, 2, 1]]


@pytest.mark.parametrize(
    ("values", "feature", "message"),
    [
        (pa.array(["1", "2"]), PRICE, r"column `price` has type string; expected numbers"),
        (pa.array([[1.0]]), PRICE, r"column `price` has type list<item: double>; expected numbers"),
        (pa.array([{"a": 1}]), NUMBER, "column `number` has type struct<a: int64>; expected integer ids"),
        (pa.array([Decimal("1.5")]), NUMBER, r"column `number` has type decimal.*; expected integer ids"),
        (pa.array([datetime.date(2011, 1, 1)]), WORD, "column `word` has type date32.*; expected ids as strings"),
        (pa.array([[{"a": 1}]]), RECENT, "column `recent` has type struct<a: int64>; expected integer ids"),
    ],
)
def test_what_means_nothing_as_a_feature_is_refused_by_type(values, feature, message):
    with pytest.raises(DataError, match=f"^rows.parquet, {message}"):
        encoded(values, feature)


def test_a_policy_stops_clips_or_drops_numbers_outside_their_range():
    values = pa.array([200.0, 3.0, -6.0])
    clipping, dropping = account_of(3, price="clip"), account_of(3, price="drop")

    with pytest.raises(
        DataError, match=r"`price` holds 200.0 in 2 of 3 rows; expected a number in \[-5, 100\] \(first"
    ):
        encoded(values, PRICE)
    assert encoded(values, PRICE, clipping) == [100, 3, -5]
    assert encoded(values, PRICE, dropping)[1] == 3

    assert clipping.counts == {"values clipped: price": 2}
    assert clipping.dropped is None
    assert dropping.counts == {"rows dropped: price": 2}
    assert dropping.dropped.tolist() == [True, False, True]


def test_a_missing_number_is_filled_dropped_or_stops_but_never_clipped():
    values = pa.array([None, 3.0, float("inf")])
    filling, dropping = account_of(3), account_of(3, price="drop")

    assert encoded(values, FILLED, filling) == [7, 3, 7]
    assert filling.counts == {"values filled: price": 2}
    encoded(values, PRICE, dropping)
    assert dropping.dropped.tolist() == [True, False, True]
    for policy in ("stop", "clip"):
        with pytest.raises(DataError, match="`price` holds no finite number in 2 of 3 rows"):
            encoded(values, PRICE, account_of(3, price=policy))


def test_a_missing_or_impossible_id_is_unknown_dropped_or_stops():
    values = pa.array([10, 2**63, None], pa.uint64())
    undeclared, dropping = account_of(3), account_of(3, number="drop")

    assert encoded(values, NUMBER, undeclared) == [1, 0, 0]
    assert undeclared.counts == {"ids invalid: number": 2}
    encoded(values, NUMBER, dropping)
    assert dropping.dropped.tolist() == [False, True, True]
    with pytest.raises(DataError, match="`number` holds no id in 2 of 3 rows; expected an id"):
        encoded(values, NUMBER, account_of(3, number="stop"))


def test_a_missing_id_is_missing_in_a_dictionary_too():
    account = account_of(3, word="drop")

    encoded(pa.array(["lamp", None, "pot"]).dictionary_encode(), WORD, account)

    assert account.dropped.tolist() == [False, True, False]
    assert account.counts == {"rows dropped: word": 1, "ids unknown: word": 1}


def test_an_id_never_seen_is_no_invalid_id():
    account = account_of(2, number="stop")

    assert encoded(pa.array([10, 77]), NUMBER, account) == [1, 0]
    assert account.counts == {"ids unknown: number": 1}


def test_a_row_is_dropped_for_one_impossible_id_in_its_list():
    account = account_of(4, recent="drop")

    encoded(pa.array([[10], [], [20, -1, 20], [None]]), RECENT, account)

    assert account.dropped.tolist() == [False, False, True, False]
    assert account.counts == {"rows dropped: recent": 1, "ids missing in lists: recent": 1}


def test_labels_segments_and_weights_stop_or_drop():
    account = account_of(3, clicked="drop", activity="drop", importance="drop")

    assert encode_label(pa.array([True, None, False]), "clicked", account).to_pylist() == [1, 0, 0]
    segment = pa.array(["heavy", "new", "VIP"]).dictionary_encode()
    assert encode_segment(segment, "activity", ("new", "heavy"), account).to_pylist()[:2] == [1, 0]
    assert encode_weight(pa.array([-1.0, 2.0, 3.0]), "importance", account).to_pylist()[1:] == [2, 3]

    assert account.dropped.tolist() == [True, True, True]
    with pytest.raises(DataError, match=r"`clicked` holds 2.0 in 1 of 2 rows; expected a label of 0 or 1"):
        encode_label(pa.array([2, 1]), "clicked", account_of(2))


@pytest.mark.parametrize("form", [pa.list_(pa.float32(), 2), pa.list_(pa.float16()), pa.large_list(pa.float64())])
def test_an_element_of_a_vector_is_a_number_of_its_own(form):
    rows = pa.table({"image": pa.array([[0.5, 1.5], None, [2.5, 3.5]], form), "size[1]": [1, 2, 3]})

    assert raw_column(rows, "image[1]").to_pylist() == [1.5, None, 3.5]
    assert raw_column(rows, "image[0]").to_pylist() == [0.5, None, 2.5]
    assert raw_column(rows, "size[1]").to_pylist() == [1, 2, 3]  # a column that is really called so


def test_a_vector_that_is_too_short_lacks_its_last_elements():
    rows = pa.table({"image": pa.array([[1.0, 2.0], [3.0], []])})

    assert raw_column(rows, "image[1]").to_pylist() == [2, None, None]


def test_a_row_to_be_scored_is_never_dropped_in_silence():
    document = world_schema().to_document() | {"invalid": {"price": "drop"}, "most_dropped": 0.5}
    contract = FeatureContract(type(CONTRACT.schema).from_document(document), {}, {}, {})
    vocabularies = {"user_id": NUMBERS, "item_id": WORDS, "country": WORDS}
    rows = pa.table(
        {"user_id": [10, 10], "item_id": ["mug", "mug"], "country": ["mug", "mug"], "recent_item_ids": [["mug"], []],
         "price": [1.0, -1.0], "days_away": [1.0, 1.0], "activity": ["new", "new"]}
    )  # fmt: skip

    with pytest.raises(DataError, match=r"Row 1 of the raw rows.*rows dropped: price"):
        raw_to_batch(rows, contract, vocabularies)
