"""An encoded folder is whole, or it is refused by name."""

import shutil

import pytest

from recsys.datasets.encoded import open_encoded
from recsys.errors import DataError
from recsys.features.vocabulary import Vocabulary
from tests.worlds import write_encoded_world


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded") / "world"
    write_encoded_world(folder, rows_per_day=20)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "world")


def test_a_whole_folder_opens_with_its_rows_days_and_vocabularies(whole):
    dataset = open_encoded(whole)

    dataset.require_intact()
    assert {split: dataset.rows(split) for split in dataset.splits} == {"train": 60, "validation": 20, "test": 20}
    assert dataset.rows("ranking_test") == 0
    assert list(dataset.days("train")) == ["2011-06-28", "2011-06-29", "2011-06-30"]
    assert len(dataset.vocabulary("item_id")) == dataset.contract.table_rows["item_id"]


def test_a_split_without_rows_is_refused_with_those_that_have_some(whole):
    with pytest.raises(
        DataError, match=r"0 rows for split `ranking_test` in .*; found test 20 \(2011-07-02 to 2011-07-02\), train 60"
    ):
        open_encoded(whole).files("ranking_test")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"There is no encoded data at .*absent.* `recsys prepare`"):
        open_encoded(tmp_path / "absent")


@pytest.mark.parametrize("name", ["manifest.json", "contract.json"])
def test_a_folder_without_its_papers_is_no_encoded_folder(copy, name):
    (copy / name).unlink()

    with pytest.raises(DataError, match=f"no complete encoded folder: {name} is missing"):
        open_encoded(copy)


def test_a_missing_part_is_named(copy):
    (copy / "split=train" / "day=2011-06-29" / "part-0.parquet").unlink()

    with pytest.raises(DataError, match=r"day=2011-06-29/part-0.parquet is missing; .* with 20 rows"):
        open_encoded(copy)


def test_a_part_cut_short_is_named(copy):
    part = copy / "split=test" / "day=2011-07-02" / "part-0.parquet"
    part.write_bytes(part.read_bytes()[:100])

    with pytest.raises(DataError, match=r"day=2011-07-02/part-0.parquet has 100 bytes"):
        open_encoded(copy)


def test_a_changed_byte_is_found_where_digests_are_compared(copy):
    part = copy / "split=test" / "day=2011-07-02" / "part-0.parquet"
    content = bytearray(part.read_bytes())
    content[50] ^= 1
    part.write_bytes(content)

    with pytest.raises(DataError, match=r"sha256 mismatch in .*day=2011-07-02"):
        open_encoded(copy).require_intact()


def test_papers_of_two_preparations_are_not_mixed(copy, tmp_path):
    write_encoded_world(tmp_path / "other", rows_per_day=20, seed=5)
    shutil.copy(tmp_path / "other" / "contract.json", copy)

    with pytest.raises(DataError, match="two preparations were mixed"):
        open_encoded(copy)


def test_a_torn_manifest_is_named(copy):
    (copy / "manifest.json").write_text('{"contract": "1", "files"')

    with pytest.raises(DataError, match=r"manifest.json is no manifest"):
        open_encoded(copy)


def test_another_vocabulary_under_the_same_name_is_refused(copy):
    path = copy / "vocabulary" / "item_id.parquet"
    vocabulary = Vocabulary.load(path)
    dataset = open_encoded(copy)
    Vocabulary("item_id", vocabulary.ids[::-1]).save(path)

    with pytest.raises(DataError, match=r"item_id.parquet has fingerprint .* would stand for other ids"):
        dataset.vocabulary("item_id")


def test_an_unknown_table_is_refused_with_those_there_are(whole):
    with pytest.raises(DataError, match="no vocabulary for table `colour`; its tables are country, item_id, user_id"):
        open_encoded(whole).vocabulary("colour")
