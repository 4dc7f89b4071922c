"""Scoring a file: every row as it came with its probability beside it, or nothing and the reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.artifacts.export import load_scorer
from recsys.artifacts.scorer import Scorer
from recsys.artifacts.scoring import score_file
from recsys.errors import CannotWriteError, DataError, UsageError
from tests.artifacts.own_rows import OwnRows, columns


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> OwnRows:
    return OwnRows(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def scorer(shop: OwnRows) -> Scorer:
    return load_scorer(shop.folder)


def written(folder: Path, rows: pa.Table) -> Path:
    pq.write_table(rows, folder / "rows.parquet")
    return folder / "rows.parquet"


def test_rows_come_back_as_they_were_with_their_probability(shop: OwnRows, scorer: Scorer, tmp_path: Path):
    kept = {
        "when": pa.array(range(60), pa.timestamp("ms", "Europe/Berlin")),
        "word": pa.array(["a", None] * 30).dictionary_encode(),
        "long": pa.array(["ä"] * 60, pa.large_string()),
        "Probability": pa.array([0] * 60),
    }
    rows = pa.table({**columns(), **kept})

    few = replace(scorer, rows_per_read=7)
    assert score_file(few, written(tmp_path, rows), tmp_path / "out" / "scores.parquet") == 60

    scored = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert scored.drop_columns("probability").equals(pq.read_table(tmp_path / "rows.parquet"))
    assert scored["probability"].type == pa.float64()
    np.testing.assert_allclose(scored["probability"], shop.prepared_scores(), rtol=0, atol=1e-6)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.parquet"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rows.parquet", lambda rows: rows.slice(0, 0), r"rows\.parquet has 0 rows: nothing to score"),
        (
            "rows.parquet",
            lambda rows: rows.append_column("probability", rows["cost"]),
            "a column `probability` already",
        ),
        ("rows.parquet", lambda rows: rows.drop_columns("cost"), "column `cost` is missing"),
        ("rows.parquet", lambda rows: pa.table({"x": [1]}), "column `customer` is missing.*found x"),
        ("rows.parquet", lambda rows: pa.table([*rows.columns, rows["cost"]], [*rows.column_names, "cost"]), "twice"),
        ("absent.parquet", lambda rows: rows, r"absent\.parquet cannot be read as Parquet"),
        ("rows.csv", lambda rows: rows, r"rows\.csv is a text file. Expected Parquet"),
        ("rows.TSV.gz", lambda rows: rows, r"rows\.TSV\.gz is a text file. Expected Parquet"),
        (".", lambda rows: rows, r"is a folder. Expected one Parquet file"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_and_leave_nothing(
    name: str, change, message: str, scorer: Scorer, tmp_path: Path
):
    (tmp_path / "in").mkdir()
    written(tmp_path / "in", change(pa.table(columns())))

    with pytest.raises(DataError, match=message):
        score_file(scorer, tmp_path / "in" / name, tmp_path / "out" / "scores.parquet")
    assert not (tmp_path / "out").exists()


def test_a_row_that_breaks_the_schema_is_told_by_its_place_in_the_file(scorer: Scorer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("recsys.artifacts.scorer._ROWS_PER_PASS", 8)
    age = pa.array([None if row == 43 else 20.0 for row in range(60)])
    rows = written(tmp_path, pa.table({**columns(), "age": age}))

    with pytest.raises(DataError, match=r"holds None in 1 of 8 rows.*\(first in row 43\)"):
        score_file(replace(scorer, rows_per_read=16), rows, tmp_path / "scores.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_the_input_is_never_the_output_under_whatever_name(scorer: Scorer, tmp_path: Path):
    rows = written(tmp_path, pa.table(columns()))
    before = rows.read_bytes()
    (tmp_path / "link.parquet").symlink_to(rows)

    for output in (rows, tmp_path / "link.parquet", tmp_path / "." / "rows.parquet"):
        with pytest.raises(UsageError, match="is the input itself"):
            score_file(scorer, rows, output)
    with pytest.raises(UsageError, match=r"scores\.csv, but it is written as Parquet"):
        score_file(scorer, rows, tmp_path / "scores.csv")
    with pytest.raises(UsageError, match="is a folder; expected a file to write"):
        score_file(scorer, rows, tmp_path)
    assert rows.read_bytes() == before


def test_a_file_damaged_in_its_middle_is_the_fault_of_the_input_and_leaves_the_old_output(
    scorer: Scorer, tmp_path: Path
):
    rows, output = tmp_path / "rows.parquet", tmp_path / "scores.parquet"
    pq.write_table(pa.table(columns()), rows, write_page_checksum=True, compression="none")
    content = bytearray(rows.read_bytes())
    content[60] ^= 0xFF
    rows.write_bytes(content)
    output.write_text("old")

    with pytest.raises(DataError, match=r"rows\.parquet cannot be read to its end"):
        score_file(scorer, rows, output)
    assert output.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "scores.parquet"}


def test_a_place_that_cannot_be_written_is_told_before_any_row_is_scored(scorer: Scorer, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(CannotWriteError, match="Cannot write"):
        score_file(scorer, written(tmp_path, pa.table(columns())), tmp_path / "file" / "scores.parquet")
