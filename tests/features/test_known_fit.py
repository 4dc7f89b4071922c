"""An earlier fit that is carried over: known ids and numbers mean what they meant, new ones are appended."""

import dataclasses

import pytest

from recsys.errors import DataError
from recsys.features.contract import Scaling
from recsys.features.known_fit import KnownFit
from recsys.features.vocabulary import Vocabulary

KNOWN = KnownFit(
    {"item": Vocabulary.of("item", ["lamp", "mug"]), "user": Vocabulary.of("user", [7, 3])},
    {"price": Scaling(2.0, 0.5)},
)


def test_known_ids_keep_their_rows_and_new_ones_follow_in_the_order_of_their_fit():
    fitted = {"item": Vocabulary.of("item", ["teapot", "mug", "bowl"]), "user": Vocabulary.of("user", [3, 9, 1])}
    grown = KNOWN.grown(fitted)
    assert grown["item"].ids.to_pylist() == ["lamp", "mug", "teapot", "bowl"]
    assert grown["user"].ids.to_pylist() == [7, 3, 9, 1]


def test_where_nothing_is_new_every_row_stays():
    grown = KNOWN.grown({"item": Vocabulary.of("item", ["mug"]), "user": Vocabulary.of("user", [3, 7])})
    assert {name: each.fingerprint for name, each in grown.items()} == {
        name: each.fingerprint for name, each in KNOWN.vocabularies.items()
    }


def test_a_table_that_is_not_known_or_had_no_ids_is_as_fitted_and_one_without_ids_now_is_as_known():
    known = KnownFit({"item": Vocabulary.of("item", []), "user": Vocabulary.of("user", [7])}, {})
    fitted = {name: Vocabulary.of(name, ids) for name, ids in (("item", ["mug"]), ("brand", ["x"]))}
    grown = known.grown(fitted | {"user": Vocabulary.of("user", [])})
    assert {name: each.ids.to_pylist() for name, each in grown.items()} == {
        "item": ["mug"],
        "brand": ["x"],
        "user": [7],
    }


def test_ids_of_another_type_are_refused():
    with pytest.raises(DataError, match=r"ids of table `user` are string.* knows are int64.*daily\.start=scratch"):
        KNOWN.grown({"user": Vocabulary.of("user", ["7"])})


def test_a_known_feature_keeps_its_scaling():
    fitted = {"price": Scaling(3.0, 1.0), "age": Scaling(40.0, 10.0)}
    assert KNOWN.kept(fitted) == {"price": Scaling(2.0, 0.5), "age": Scaling(40.0, 10.0)}


@pytest.mark.parametrize(
    "other",
    [
        {"scaling": {"price": Scaling(2.0, 0.6)}},
        {"vocabularies": {**KNOWN.vocabularies, "user": Vocabulary.of("user", [3, 7])}},
    ],
)
def test_the_fingerprint_follows_ids_their_rows_and_scaling(other):
    assert KNOWN.fingerprint == dataclasses.replace(KNOWN).fingerprint
    assert KNOWN.fingerprint != dataclasses.replace(KNOWN, **other).fingerprint
