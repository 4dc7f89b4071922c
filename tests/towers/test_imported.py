"""Vectors made elsewhere: read from every format, aligned to a vocabulary, and refused where they make no table."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from recsys.errors import DataError
from recsys.features.vocabulary import Vocabulary
from recsys.towers.artifact import TowerArtifact, apply_tower
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.imported import import_tower, reduce_width, with_imported_rows
from recsys.towers.tower_spec import TowerKind
from recsys.towers.vector_files import read_vectors
from tests.small_model import ROWS, batch_of, small_contract, small_schema, two_tower_spec

IDS = ["lamp", "mug", "teapot"]
# Mean square 1, so that scaling changes nothing.
VECTORS = np.array([[1, -1], [1, 1], [-1, 1]], dtype=np.float32)


def parquet(path: Path, ids: list | pa.Array, vectors: list | np.ndarray | pa.Array, *, fixed: bool = False) -> Path:
    if not isinstance(vectors, pa.Array):
        rows = [None if row is None else list(row) for row in vectors]
        kind = pa.list_(pa.float32(), len(rows[0])) if fixed else pa.list_(pa.float32())
        vectors = pa.array(rows, type=kind)
    pq.write_table(pa.table({"code": ids, "vector": vectors}), path)
    return path


def in_parquet(folder: Path) -> Path:
    return parquet(folder / "titles.parquet", IDS, VECTORS)


def in_fixed_size_parquet(folder: Path) -> Path:
    return parquet(folder / "titles.parquet", IDS, VECTORS, fixed=True)


def in_npy_with(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "titles.npy", VECTORS)
        beside = folder / f"titles.ids{suffix}"
        if suffix == ".npy":
            np.save(beside, np.array(IDS))
        else:
            beside.write_text(json.dumps(IDS) if suffix == ".json" else "\n".join(IDS) + "\n")
        return folder / "titles.npy"

    return write


def in_safetensors(folder: Path) -> Path:
    save_file({"vector": VECTORS}, folder / "titles.safetensors")
    (folder / "titles.ids.json").write_text(json.dumps(IDS))
    return folder / "titles.safetensors"


@pytest.mark.parametrize(
    "write",
    [
        in_parquet,
        in_fixed_size_parquet,
        in_npy_with(".npy"),
        in_npy_with(".txt"),
        in_npy_with(".json"),
        in_safetensors,
    ],
)
def test_ids_and_vectors_come_out_of_every_format_alike(write: Callable[[Path], Path], tmp_path: Path) -> None:
    ids, vectors = read_vectors(write(tmp_path), "code", "vector")

    assert ids.to_pylist() == IDS
    assert vectors.dtype == np.float32
    assert vectors.tolist() == VECTORS.tolist()


def test_safetensors_may_hold_integer_ids_themselves(tmp_path: Path) -> None:
    path = tmp_path / "movies.safetensors"
    save_file({"vector": VECTORS, "code": np.array([7, 3, 5], dtype=np.int32)}, path)

    assert read_vectors(path, "code", "vector")[0].to_pylist() == [7, 3, 5]


def imported(path: Path, vocabulary: Vocabulary, width: int = 2) -> TowerArtifact:
    return import_tower(path, vocabulary, small_schema(), width=width, id_column="code", vector_column="vector")


def test_each_id_of_the_vocabulary_gets_its_own_vector_and_those_without_the_mean(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of("item_id", ["mug", "kettle", "lamp"])

    artifact = imported(in_parquet(tmp_path), vocabulary)

    # The mean of mug (1, 1) and lamp (1, -1) is (1, 0); the teapot is not in the vocabulary and does not count.
    table = artifact.weights["ebc.embedding_bags.tower_item_id.weight"]
    assert table.tolist() == [[1, 0], [1, 1], [1, 0], [1, -1]]
    assert artifact.spec.kind is TowerKind.IMPORTED
    receipt = artifact.provenance
    assert (receipt["ids_in_vocabulary"], receipt["ids_with_vector"], receipt["ids_without_vector"]) == (3, 2, 1)
    assert (receipt["vectors_in_file"], receipt["file_width"], receipt["width"]) == (3, 2, 2)
    assert receipt["file_sha256"].startswith("sha256:")
    assert json.loads(json.dumps(receipt)) == receipt


def test_integer_ids_in_the_file_meet_string_ids_of_the_data(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", [22, 11, 33], VECTORS)

    table = imported(path, Vocabulary.of("item_id", ["11"])).weights["ebc.embedding_bags.tower_item_id.weight"]

    assert table[1].tolist() == [1, 1]


def test_an_imported_artifact_fits_the_tower_that_its_description_builds(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d", "e"]
    vectors = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    artifact = imported(parquet(tmp_path / "t.parquet", ids, vectors), Vocabulary.of("item_id", ids), width=4)
    tower = EmbeddingTower(artifact.spec, small_contract())

    apply_tower(tower, artifact)

    item = tower(batch_of(ROWS))[:, 4:8]
    table = artifact.weights["ebc.embedding_bags.tower_item_id.weight"]
    torch.testing.assert_close(item, table[[row.item_id for row in ROWS]])


def test_reduced_vectors_keep_the_most_variance_and_say_how_much() -> None:
    # Along (1, 1) the variance is 8, across it 2: one component of two keeps 0.8.
    vectors = np.array([[2, 2], [-2, -2], [1, -1], [-1, 1]], dtype=np.float32) * np.sqrt(2)

    reduced = reduce_width(vectors + np.float32(10), 1, "here")

    assert reduced.explained_variance == pytest.approx(0.8)
    # (4, -4, 0, 0) has mean square 8.
    assert np.abs(reduced.vectors[:, 0]) == pytest.approx([4 / np.sqrt(8), 4 / np.sqrt(8), 0, 0], abs=1e-6)
    assert reduced.vectors[0, 0] == -reduced.vectors[1, 0]
    assert reduced.scale == pytest.approx(1 / np.sqrt(8))


def test_inner_products_survive_a_reduction_to_the_space_that_the_vectors_lie_in() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 8)) * np.array([[3.0], [1.0]])
    vectors = (rng.normal(size=(50, 2)) @ plane).astype(np.float32)
    centred = vectors - vectors.mean(axis=0)

    reduced = reduce_width(vectors, 2, "here")

    assert reduced.explained_variance == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        reduced.vectors @ reduced.vectors.T / reduced.scale**2, centred @ centred.T, rtol=1e-4, atol=1e-3
    )


def grown_from(path: Path, table: torch.Tensor, known: int, ids: list[str]) -> torch.Tensor:
    rows = torch.cat([table, torch.zeros(len(ids) + 1 - len(table), table.shape[1])])
    vocabulary = Vocabulary.of("item_id", ids)
    return with_imported_rows(rows, vocabulary, known + 1, path, id_column="code", vector_column="vector")


def test_a_new_ids_vector_is_reduced_as_those_of_the_known_ones_were(tmp_path: Path) -> None:
    ids = [f"item-{number}" for number in range(12)]
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    path = parquet(tmp_path / "vectors.parquet", ids, list(vectors))
    (table,) = imported(path, Vocabulary.of("item_id", ids[:9]), width=3).weights.values()
    grown = grown_from(path, table, 9, [*ids, "without a vector"])
    assert torch.equal(grown[:10], table)
    known, old = vectors[:9].astype(np.float64), table[1:10].double().numpy()
    axes, *_ = np.linalg.lstsq(known - known.mean(axis=0), old, rcond=None)
    expected = (vectors[9:].astype(np.float64) - known.mean(axis=0)) @ axes
    assert np.allclose(grown[10:13].numpy(), expected, atol=1e-5)
    assert torch.equal(grown[13], torch.zeros(3))


def test_rows_stay_as_they_are_where_no_new_id_or_no_known_one_has_a_vector(tmp_path: Path) -> None:
    path = parquet(tmp_path / "vectors.parquet", ["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    table = torch.ones(3, 2)
    for known, ids in ((2, ["a", "b", "new"]), (2, ["other", "one", "a"])):
        assert torch.equal(grown_from(path, table, known, ids)[3:], torch.zeros(1, 2))


def message_of(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize(
    ("ids", "vectors", "expected"),
    [
        (["a", "b", "a"], VECTORS, "1 repeated ids, such as 'a'"),
        (["a", None, "c"], VECTORS, "1 vectors whose id is null"),
        (IDS, [[1, 2], [float("nan"), 1], [3, 4]], "1 vectors with a number that is not finite"),
        (IDS, [[1, 2], [float("inf"), 1], [3, 4]], "not finite, the first that of id 'mug'"),
        (IDS, [[1, 2], [1, 2, 3], [3, 4]], "lists of [2, 3] numbers (-1: null); expected one length"),
        (IDS, [[1, 2], None, [3, 4]], "lists of [-1, 2] numbers (-1: null)"),
        (IDS, pa.array([1.0, 2.0, 3.0]), "Column `vector` of"),
        (IDS, pa.array([["x"], ["y"], ["z"]]), "holds string; expected float numbers"),
        ([], pa.array([], type=pa.list_(pa.float32(), 2)), "float32 of shape (0, 0)"),
    ],
)  # fmt: skip
def test_a_column_that_makes_no_table_is_refused_with_what_was_found(
    ids: list, vectors: list, expected: str, tmp_path: Path
) -> None:
    path = parquet(tmp_path / "titles.parquet", pa.array(ids, type=pa.string()), vectors)

    message = message_of(lambda: read_vectors(path, "code", "vector"))

    assert expected in message
    assert str(path) in message


def test_a_missing_column_is_refused_with_those_there_are(tmp_path: Path) -> None:
    message = message_of(lambda: read_vectors(in_parquet(tmp_path), "stock_code", "vector"))

    assert "no column `stock_code` (`tower.id_column`); its columns are code, vector" in message


def test_a_missing_torn_or_foreign_file_is_refused(tmp_path: Path) -> None:
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(in_parquet(tmp_path).read_bytes()[:100])

    assert "nowhere.parquet cannot be read" in message_of(lambda: read_vectors(tmp_path / "nowhere.parquet", "a", "b"))
    assert "torn.parquet cannot be read" in message_of(lambda: read_vectors(torn, "code", "vector"))
    assert "expected one of .parquet, .npy, .safetensors" in message_of(
        lambda: read_vectors(tmp_path / "titles.csv", "code", "vector")
    )


def test_pickled_arrays_are_refused_unread(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "t.ids.txt").write_text("a\n")

    assert "cannot be read" in message_of(lambda: read_vectors(tmp_path / "t.npy", "code", "vector"))


def test_arrays_without_ids_or_with_too_few_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", VECTORS)
    assert "expected t.ids.npy, .ids.txt or .ids.json beside it" in message_of(
        lambda: read_vectors(tmp_path / "t.npy", "code", "vector")
    )

    (tmp_path / "t.ids.txt").write_text("a\nb\n")
    assert "3 vectors, but there are 2 ids" in message_of(lambda: read_vectors(tmp_path / "t.npy", "code", "vector"))


def test_integer_arrays_are_no_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", VECTORS.astype(np.int64))
    (tmp_path / "t.ids.txt").write_text("\n".join(IDS))

    assert "int64 of shape (3, 2)" in message_of(lambda: read_vectors(tmp_path / "t.npy", "code", "vector"))


def test_safetensors_without_the_tensor_are_refused_with_those_there_are(tmp_path: Path) -> None:
    message = message_of(lambda: read_vectors(in_safetensors(tmp_path), "code", "title"))

    assert "no tensor `title` (`tower.vector_column`); its tensors are vector" in message


def test_vectors_of_which_none_belongs_to_the_data_are_refused(tmp_path: Path) -> None:
    message = message_of(lambda: imported(in_parquet(tmp_path), Vocabulary.of("item_id", ["85123A"])))

    assert "None of the 3 ids" in message
    assert "'lamp'" in message
    assert "'85123A'" in message


def test_ids_that_cannot_be_compared_with_the_datas_are_refused(tmp_path: Path) -> None:
    message = message_of(lambda: imported(in_parquet(tmp_path), Vocabulary.of("item_id", [1, 2])))

    assert f"The ids in {tmp_path / 'titles.parquet'} are string and cannot be compared" in message
    assert "Table `item_id` has ids of type int64" in message


@pytest.mark.parametrize("width", [3, 64])
def test_a_tower_wider_than_its_vectors_is_refused(width: int, tmp_path: Path) -> None:
    message = message_of(lambda: imported(in_parquet(tmp_path), Vocabulary.of("item_id", IDS), width=width))

    assert f"3 usable vectors of 2 numbers; `tower.width` {width}" in message


def test_fewer_vectors_than_components_are_refused() -> None:
    assert "2 usable vectors of 8 numbers" in message_of(lambda: reduce_width(np.ones((2, 8), np.float32), 4, "here"))


def test_an_artifact_of_another_description_or_shape_is_not_applied(tmp_path: Path) -> None:
    artifact = imported(in_parquet(tmp_path), Vocabulary.of("item_id", ["lamp"]))

    other_kind = EmbeddingTower(two_tower_spec(), small_contract())
    assert "Build the ranker's tower from the artifact's own" in message_of(lambda: apply_tower(other_kind, artifact))
    more_items = EmbeddingTower(artifact.spec, small_contract())
    message = message_of(lambda: apply_tower(more_items, artifact))
    assert "tower_item_id.weight` has shape (2, 2); the ranker's tower expects (6, 2)" in message


def test_real_title_vectors_become_a_tower(online_retail_folder: Path) -> None:
    path = online_retail_folder / "title_vectors.parquet"
    codes = pq.read_table(path, columns=["stock_code"])["stock_code"].to_pylist()
    vocabulary = Vocabulary.of("item_id", [*codes[:4000], "no such product"])

    artifact = import_tower(path, vocabulary, small_schema(), width=64, id_column="stock_code", vector_column="vector")

    table = artifact.weights["ebc.embedding_bags.tower_item_id.weight"]
    assert table.shape == (4002, 64)
    assert artifact.provenance["ids_with_vector"] == 4000
    assert 0.65 < artifact.provenance["explained_variance"] < 0.8
    assert table[1:4001].square().mean().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(table[0], table[4001])


def test_whole_floats_are_ids_and_those_that_were_rounded_are_refused(tmp_path: Path) -> None:
    ids, _ = read_vectors(parquet(tmp_path / "a.parquet", [7.0, 8.0, 2.0**53 - 1], VECTORS), "code", "vector")
    assert ids.to_pylist() == [7, 8, 2**53 - 1]

    for first in (2.0**53, 2.0**60):
        with pytest.raises(DataError, match="holds ids as floating-point numbers"):
            read_vectors(parquet(tmp_path / "b.parquet", [first, 8.0, 9.0], VECTORS), "code", "vector")
    with pytest.raises(DataError, match="expected integer ids"):
        read_vectors(parquet(tmp_path / "c.parquet", [7.5, 8.0, 9.0], VECTORS), "code", "vector")
    np.save(tmp_path / "d.npy", VECTORS)
    (tmp_path / "d.ids.json").write_text(json.dumps([2**64, 1, 2]))
    with pytest.raises(DataError, match="cannot be read"):
        read_vectors(tmp_path / "d.npy", "code", "vector")
