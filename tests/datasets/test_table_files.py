"""Files of a user's table: a name is a name, and every row is read once, in one split."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recsys.datasets.table_files import find_files
from recsys.errors import DataError
from recsys.progress import silent
from tests.datasets.shop_files import BY_FILE, read, schema_document, shop, source_rows

HOSTILE = [
    "price=5",
    "PRICE=5",
    "at=2026-01-03",
    "user_id=5",
    "split=train",
    "a*b",
    "a?b",
    "a[b]c",
    "[*]",
    "**",
    "a{b,c}",
    "a%20b",
    "100%",
    "a#b",
    "a b ",
    "a\nb",
    "it's",
    'say "x"',
    "back\\slash",
    "~",
    "$HOME",
    "${x}",
    "a,b",
    "a:b",
    "file:",
    "s3:",
    "a::b",
    "x.parquet",
    "_under",
    ".hidden",
    "ünï",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_above_the_rows_and_of_the_work_folder_is_just_a_name(name: str, tmp_path: Path) -> None:
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    # What a pattern of the name would find as well.
    for twin in ("axb", "abc", "ab"):
        (tmp_path / twin / "raw").mkdir(parents=True)
        shop().assign(price=-1.0).to_parquet(tmp_path / twin / "raw" / "b.parquet")
    rows = shop()
    rows[:40].to_parquet(raw / "a.parquet")
    rows[40:].to_csv(raw / "b.csv", index=False)

    found = read(raw, tmp_path / name / "work")
    assert found["price"].tolist() == pytest.approx(rows["price"].tolist(), abs=0)
    assert found["user_id"].tolist() == rows["user_id"].tolist()
    assert found["split"].value_counts().to_dict() == {"train": 41, "validation": 6, "test": 13}


@pytest.mark.parametrize(
    "name", ["a*b.parquet", "a[1].csv", "price=5.parquet", "a b,c#d%e.csv", "it's.parquet", "a?.csv"]
)
def test_any_name_of_a_file_is_just_a_name(name: str, tmp_path: Path) -> None:
    raw, rows = tmp_path / "raw", shop()
    raw.mkdir()
    for twin in ("axb.parquet", "a1.csv", "a2.csv"):
        _write(rows.assign(price=-1.0), raw / twin)
    _write(rows, raw / name)
    assert read(raw, tmp_path / ".work", files=name)["price"].tolist() == rows["price"].tolist()


def test_a_name_with_a_pattern_and_a_backslash_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "a*\\b"
    raw.mkdir()
    shop().to_parquet(raw / "a.parquet")
    with pytest.raises(DataError, match=r"backslash beside one of .* Rename the file or folder"):
        read(raw, tmp_path / ".work")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_folders_below_the_raw_folder_name_columns_of_their_rows(suffix: str, tmp_path: Path) -> None:
    rows = shop()
    for (group, item), part in rows.groupby(["group", "item_id"]):
        folder = tmp_path / "price=5" / f"group={group}" / f"item_id={item}"
        folder.mkdir(parents=True)
        _write(part.drop(columns=["group", "item_id"]), folder / f"part.{suffix}")

    found = read(tmp_path / "price=5", tmp_path / ".work")
    for name in ("user_id", "item_id", "price", "group"):
        assert found[name].tolist() == rows[name].tolist(), name


def test_zero_padded_names_of_folders_stay_words_and_an_empty_one_is_no_value(tmp_path: Path) -> None:
    rows = shop()
    for item, part in rows.groupby("item_id"):
        value = "__HIVE_DEFAULT_PARTITION__" if item == 1 else f"{item:03d}"
        (tmp_path / f"item_id={value}").mkdir()
        part.drop(columns="item_id").to_parquet(tmp_path / f"item_id={value}" / "a.parquet")
    document = schema_document()
    document["invalid"] = {"item_id": "unknown"}
    found = source_rows(tmp_path, tmp_path / ".work", document)[0]["item_id"]
    assert found.fillna("none").tolist() == ["none" if item == 1 else f"{item:03d}" for item in rows["item_id"]]


@pytest.mark.parametrize("folder", ["price=5", "PRICE=5", "group=new"])
def test_a_folder_that_names_a_column_of_its_files_stops(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    shop().to_parquet(tmp_path / folder / "a.parquet")
    with pytest.raises(DataError, match=rf"has a column .*its folder `{folder}` names it too"):
        read(tmp_path, tmp_path / ".work")


def test_a_pattern_that_meets_the_files_of_another_split_is_refused(tmp_path: Path) -> None:
    rows = shop()
    for name, part in {"a": rows[:40], "valid": rows[40:50], "test": rows[50:]}.items():
        part.to_parquet(tmp_path / f"{name}.parquet")
    files = {"train": "*.parquet", "validation": "valid.parquet", "test": "test.parquet"}
    with pytest.raises(DataError, match=r"(?s)valid.parquet is named twice.*'\*.parquet' for train.*'valid.parquet'"):
        read(tmp_path, tmp_path / ".work", files=files)


@pytest.mark.parametrize(
    "copy", [shutil.copy, lambda source, target: target.symlink_to(source), lambda s, t: t.hardlink_to(s)]
)
@pytest.mark.parametrize("name", ["test.parquet", "train.2.parquet"])
def test_one_files_rows_stand_in_one_split_once(copy: Any, name: str, tmp_path: Path) -> None:
    rows = shop()
    for split, part in {"train": rows[:40], "valid": rows[40:50], "test": rows[50:]}.items():
        part.to_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / name).unlink(missing_ok=True)
    source = tmp_path / ("valid.parquet" if name.startswith("test") else "train.parquet")
    copy(source, tmp_path / name)
    if name.startswith("train") and (tmp_path / name).is_symlink():
        assert len(read(tmp_path, tmp_path / ".work", files=BY_FILE)) == 60
        return
    with pytest.raises(
        DataError, match=r"(test|train\.2).parquet (and .*hold the same bytes|is named twice)|hold the same"
    ):
        read(tmp_path, tmp_path / ".work", files=BY_FILE)


def test_patterns_that_overlap_within_a_split_count_a_row_once(tmp_path: Path) -> None:
    shop().to_parquet(tmp_path / "a.parquet")
    assert len(read(tmp_path, tmp_path / ".work", files=["*.parquet", "a.*", "**/a.parquet", "./a.parquet"])) == 60


def test_what_writers_leave_behind_is_left_alone(tmp_path: Path) -> None:
    rows = shop()
    rows.to_parquet(tmp_path / "a.parquet")
    leftovers = ["_temporary/0/a.parquet", ".ipynb_checkpoints/a-checkpoint.parquet", "_SUCCESS", ".a.parquet.crc"]
    for name in [*leftovers, "b.parquet.partial", "c.parquet.tmp", "sub/.d.parquet", "_delta_log/1.parquet", "d.tmp/x"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows.assign(price=-1.0).to_parquet(tmp_path / name)
    assert read(tmp_path, tmp_path / ".work", files="**/*")["price"].tolist() == rows["price"].tolist()
    # As in a shell, a name that begins so too asks for them.
    assert set(read(tmp_path, tmp_path / ".work", files="_temporary/**/*.parquet")["price"]) == {-1.0}


def test_links_to_files_and_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    blobs, raw, rows = tmp_path / "blobs", tmp_path / "raw", shop()
    (blobs / "day").mkdir(parents=True)
    raw.mkdir()
    rows[:30].to_parquet(blobs / "0a1b2c")
    rows[30:].to_csv(blobs / "day" / "b.csv", index=False)
    (raw / "a.parquet").symlink_to(blobs / "0a1b2c")
    (raw / "more").symlink_to(blobs / "day")
    (raw / "circle").symlink_to(raw)
    assert read(raw, tmp_path / ".work", files="**/*.*")["price"].tolist() == rows["price"].tolist()
    (raw / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone.parquet is a link that leads nowhere"):
        read(raw, tmp_path / ".work", files="*.parquet")


def test_rows_that_stand_in_two_splits_are_counted(tmp_path: Path) -> None:
    rows = shop()
    rows[:40].to_parquet(tmp_path / "train.parquet")
    pd.concat([rows[40:50], rows[:3]]).to_csv(tmp_path / "valid.csv", index=False)
    # One row of train and one of validation; one that differs in a column that no feature reads; a row twice.
    near = rows[5:6].assign(note="y")
    pd.concat([rows[50:], rows[7:8], rows[44:45], rows[44:45]]).to_parquet(tmp_path / "test.parquet")
    counts = source_rows(tmp_path, tmp_path / ".work", schema_document(files=BY_FILE))[1].counts
    assert counts == {
        "rows outside every split": 0,
        "validation rows that stand in train too": 3,
        "test rows that stand in train too": 1,
        "test rows that stand in validation too": 2,
    }
    for name in ("train", "valid", "test"):
        path = next(tmp_path.glob(f"{name}.*"))
        frame = (pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)).assign(note="x")
        _write(pd.concat([frame, near]) if name == "test" else frame, path)
    counts = source_rows(tmp_path, tmp_path / ".work", schema_document(files=BY_FILE))[1].counts
    assert counts["test rows that stand in train too"] == 1


def test_rows_in_splits_by_a_column_are_compared_without_it(tmp_path: Path) -> None:
    rows = shop()
    folds = pd.Series(["a"] * 40 + ["b"] * 10 + ["c"] * 10)
    pd.concat([rows.assign(fold=folds), rows[:2].assign(fold="c")]).to_parquet(tmp_path / "a.parquet")
    splits = {"column": "fold", "train": "a", "validation": "b", "test": "c"}
    counts = source_rows(tmp_path, tmp_path / ".work", schema_document(splits=splits))[1].counts
    assert counts["test rows that stand in train too"] == 2


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["a.parquet"]),
        ("**/*.parquet", ["a.parquet", "x/b.parquet", "x/y/c.parquet"]),
        ("**", ["a.parquet", "d.csv", "x/b.parquet", "x/y/c.parquet"]),
        ("x/**/*.parquet", ["x/b.parquet", "x/y/c.parquet"]),
        ("?/*.parquet", ["x/b.parquet"]),
        ("[xz]/y/*", ["x/y/c.parquet"]),
        ("**/y/*", ["x/y/c.parquet"]),
    ],
)
def test_patterns_mean_what_they_mean_in_a_shell(pattern: str, expected: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(["a.parquet", "x/b.parquet", "x/y/c.parquet", "d.csv"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(str(number))
    assert [file.name for file in find_files(tmp_path, {"": [pattern]}, silent)] == expected


def _write(rows: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        rows.to_csv(path, index=False)
    else:
        rows.to_parquet(path)
