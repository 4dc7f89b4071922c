"""`recsys inspect` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.progress import silent
from recsys.run.prepare import run as prepare


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two hive partitions of rows that are badly written."""
    for split in ("train", "test"):
        path = tmp_path / "rows" / f"split={split}" / "part.parquet"
        path.parent.mkdir(parents=True)
        table = pa.table({"user": np.arange(2000) % 90, "price": np.full(2000, np.inf)})
        pq.write_table(table, path, row_group_size=100, compression="none")
    return tmp_path / "rows"


def test_a_folder_is_told_with_its_columns_its_epochs_and_advice(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", str(rows), "training.batch_size=300"]) == 0
    printed = capsys.readouterr().out
    assert f"{rows}: 4,000 rows in 2 files" in printed
    assert "40 row groups of 100 to 100 rows" in printed
    assert "partition split: 2 values, test to train" in printed
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    table = {row[0]: row[1:] for row in cells}
    assert table["user"][:3] == ["int64", "UNCOMPRESSED", "RLE_DICTIONARY"]
    assert table["train"][:3] == ["2,000", "20", "7"]
    assert "1. row groups: 40 of 100 rows" in printed
    assert float(table["advice 1"][0]) < float(table["as it is"][0])


def test_the_same_is_told_to_a_machine(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", str(rows), "--json", "training.batch_size=300"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (printed["rows"], printed["files"], printed["row_group_rows"]["most"]) == (4000, 2, 100)
    assert printed["loader"]["train"]["batches"] == 7
    user, price = printed["columns"]
    assert (user["type"], user["codec"], user["is_read"]) == ("int64", "UNCOMPRESSED", True)
    assert price["bytes_per_row"] < user["bytes_per_row"]
    assert "row groups" in [advice["subject"] for advice in printed["advice"]]
    assert printed["cost_with_all_advice"]["bytes_per_row"] < printed["cost_now"]["bytes_per_row"]


def test_of_an_encoded_folder_only_what_the_loader_reads_is_judged(
    small_world: list[str], capsys: pytest.CaptureFixture[str]
):
    encoded = prepare(compose_config(small_world), silent)
    capsys.readouterr()
    assert main(["inspect", str(encoded.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {split: plan["rows"] for split, plan in found["loader"].items()} == {
        split: encoded.rows(split) for split in encoded.splits
    }
    is_read = {column["path"]: column["is_read"] for column in found["columns"]}
    assert is_read["user_id"]
    assert not is_read["time"]
    assert found["rows"] == sum(encoded.rows(split) for split in encoded.splits)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("rows.parquet", b"PAR1 cut short", "rows.parquet: its footer cannot be read"), ("rows.csv", b"id", "1 .csv")],
)
def test_what_cannot_be_inspected_ends_with_65_and_its_name(
    tmp_path: Path, name: str, content: bytes, told: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / name).write_bytes(content)
    assert main(["inspect", str(tmp_path)]) == 65
    assert told in capsys.readouterr().err
