"""What the receipt of imported vectors says, and what ids without a vector get."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from recsys.errors import DataError
from recsys.features.vocabulary import Vocabulary
from recsys.towers.import_receipt import Traffic, most_seen_without, norms_of, traffic_coverage
from recsys.towers.imported import import_tower
from recsys.towers.missing_vectors import with_missing_rows
from recsys.towers.vector_files import in_single_precision, precision_loss
from tests.small_model import small_schema

# The unknown row, then lamp, mug, kettle and teapot; lamp and kettle have a vector.
HAS_VECTOR = np.array([False, True, False, True, False])
VOCABULARY = Vocabulary.of("item_id", ["lamp", "mug", "kettle", "teapot"])
TRAFFIC = Traffic(
    ("new", "light", "heavy"),
    {
        "train": np.array([[0, 4, 3, 0, 1], [0, 0, 0, 2, 0], [0, 0, 0, 0, 0]]),
        "test": np.array([[2, 1, 0, 0, 5], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]),
    },
)


def test_coverage_is_told_of_rows_and_ids_overall_and_by_segment() -> None:
    found = traffic_coverage(HAS_VECTOR, TRAFFIC)

    assert found["train"]["all"] == {"rows": 10, "rows_with_vector_share": 0.6, "ids": 4, "ids_with_vector_share": 0.5}
    assert found["train"]["new"] == {
        "rows": 8,
        "rows_with_vector_share": 0.5,
        "ids": 3,
        "ids_with_vector_share": pytest.approx(1 / 3),
    }
    assert found["train"]["light"]["rows_with_vector_share"] == 1
    assert "heavy" not in found["train"]
    # Of the ten test rows two are of unknown items.
    assert found["test"]["all"]["rows_with_vector_share"] == 0.2


def test_ids_without_a_vector_are_named_those_with_most_rows_first_and_the_unknown_row_never() -> None:
    assert most_seen_without(HAS_VECTOR, TRAFFIC, VOCABULARY) == [["teapot", 6], ["mug", 4]]


def test_lengths_are_told_with_zeros_among_them() -> None:
    assert norms_of(np.array([[3.0, 4], [0, 0], [0, 1]])) == {"least": 0, "mean": 2, "largest": 5, "zero": 1}


def test_doubles_lose_what_single_precision_cannot_hold_and_halves_nothing() -> None:
    third = np.array([[1 / 3, 0.0]])
    kept = in_single_precision(third, Path("here"))
    assert precision_loss(third, kept) == pytest.approx(abs(float(np.float32(1 / 3)) * 3 - 1))
    assert precision_loss(np.array([[1e-60]]), np.zeros((1, 1), np.float32)) == 1
    half = third.astype(np.float16)
    assert precision_loss(half, in_single_precision(half, Path("here"))) == 0


def test_a_number_that_would_become_infinite_is_refused() -> None:
    with pytest.raises(DataError, match=r"here hold the number 1e\+39; single precision ends at 3.4e\+38"):
        in_single_precision(np.array([[1.0, -1e39]]), Path("here"))


def filled(policy: str, attributes: sparse.csr_matrix | None = None) -> list[list[float]]:
    table = np.array([[2, 1], [1, 0], [2, 1], [3, 2], [2, 1]], dtype=np.float32)
    return with_missing_rows(table, HAS_VECTOR, policy, attributes).tolist()


def test_rows_without_a_vector_have_the_mean_or_zeros() -> None:
    assert filled("mean") == [[2, 1], [1, 0], [2, 1], [3, 2], [2, 1]]
    assert filled("zero") == [[0, 0], [1, 0], [0, 0], [3, 2], [0, 0]]


def test_rows_to_be_learned_differ_and_have_the_spread_of_the_others() -> None:
    known = np.random.default_rng(1).normal([1, -2], [3, 0.5], (4000, 2)).astype(np.float32)
    table = np.concatenate([known, np.tile(known.mean(axis=0), (4000, 1))])
    found = with_missing_rows(table, np.arange(8000) < 4000, "learned", None)

    np.testing.assert_array_equal(found[:4000], known)
    np.testing.assert_allclose(found[4000:].mean(axis=0), [1, -2], atol=0.2)
    np.testing.assert_allclose(found[4000:].std(axis=0), [3, 0.5], rtol=0.05)
    assert len(np.unique(found[4000:], axis=0)) == 4000


def test_attributes_predict_the_rows_without_a_vector() -> None:
    # Vectors are sums of one vector per attribute, so that an id of known attributes is known.
    random = np.random.default_rng(2)
    attributes = sparse.csr_matrix((random.random((300, 6)) < 0.4).astype(float))
    true = (attributes @ random.normal(size=(6, 3))).astype(np.float32)
    has_vector = np.arange(300) % 3 > 0
    table = np.where(has_vector[:, None], true, true[has_vector].mean(axis=0))
    found = with_missing_rows(table, has_vector, "attributes", attributes)

    # The unknown row is no id; ridge draws the others a little toward the mean.
    np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_allclose(found[1:], true[1:], atol=0.1)


def test_the_provenance_of_an_import_holds_its_receipt(tmp_path: Path) -> None:
    np.save(tmp_path / "titles.npy", np.array([[3.0, 4], [0.1, 0], [7, 7]]))
    (tmp_path / "titles.ids.txt").write_text("lamp\nkettle\nnobody's\n")

    provenance = import_tower(
        tmp_path / "titles.npy",
        VOCABULARY,
        small_schema(),
        width=2,
        id_column="",
        vector_column="",
        missing="zero",
        traffic=TRAFFIC,
    ).provenance

    assert (provenance["missing_vectors"], provenance["file_precision"]) == ("zero", "float64")
    assert 0 < provenance["largest_rounding_error"] < 2**-24
    assert provenance["ids_with_vector_share"] == 0.5
    assert provenance["norms_in_file"]["largest"] == pytest.approx(7 * np.sqrt(2))
    # Of the two that are used the mean square is 1: their squared lengths add up to 4.
    assert sum(provenance["norms_in_table"][which] ** 2 for which in ("least", "largest")) == pytest.approx(4, rel=1e-6)
    assert provenance["coverage"]["train"]["all"]["rows_with_vector_share"] == 0.6
    assert provenance["most_seen_without_vector"][0] == ["teapot", 6]
