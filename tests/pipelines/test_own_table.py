"""Rows that a user has already, as they come: trained on, compared on and scored, whatever the columns are called."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.run.record import open_store
from recsys.tracking import names
from tests.pipelines.own_table import PRETRAIN, OwnTable
from tests.recorded import recorded_table

TAGS = {"kind": "sparse_list", "max_length": 3, "table": "tags", "used_by": ["item_tower", "interaction_network"]}
USER, PRICE, LABELS = "ユーザー", "a/b 'preis' \"x\"", "étiquettes 🏷"
PHONE, DESKTOP = "téléphone/📱", "desktop"


def with_names_of_all_alphabets(table: OwnTable) -> None:
    columns, features = table.columns, table.schema["features"]
    columns[LABELS] = [[["rot", "blau"], ["grün"], []][item % 3] for item in columns["item_id"]]
    columns[USER] = [f"usér-{user}" for user in columns.pop("user_id")]
    columns[PRICE] = columns.pop("price")
    columns["device"] = [PHONE if device == "phone" else DESKTOP for device in columns["device"]]
    features[0] |= {"name": USER, "table": "user"}
    features[3] |= {"name": PRICE}
    features.append({"name": LABELS, **TAGS})
    table.schema |= {"user": USER, "segments": [PHONE, DESKTOP]}


def result_of(table: OwnTable) -> tuple[Path, dict[str, float]]:
    (path,) = table.root.glob("runs/table/*/result.json")
    scores: dict[str, float] = json.loads(path.read_text())["scores"]
    return path.parent, scores


def test_unicode_columns_string_ids_and_lists_are_trained_on_compared_on_and_scored(tmp_path: Path):
    table = OwnTable(tmp_path)
    with_names_of_all_alphabets(table)
    table.write()
    words = [*table.words, *PRETRAIN]
    assert main(["train", *words]) == 0
    run, scores = result_of(table)
    assert {name for name in scores if name.startswith("auc/")} == {"auc/all", f"auc/{PHONE}", f"auc/{DESKTOP}"}

    assert main(["ablate", *words, "ablation.seeds=[0]"]) == 0
    (report,) = tmp_path.glob("runs/table/smoke-*/report.md")
    assert PHONE in report.read_text(encoding="utf-8")
    arms = recorded_table(open_store(compose_config(words)))
    assert len(arms) == 2
    assert arms[f"metric.{names.auc(names.TEST, PHONE)}"].between(0, 1).all()

    rows = pa.table(table.columns)
    rows = rows.append_column("segment", rows["device"])
    pq.write_table(rows, tmp_path / "rows.parquet")
    to_score = [
        "--run",
        str(run),
        "--input",
        str(tmp_path / "rows.parquet"),
        "--output",
        str(tmp_path / "scores.parquet"),
    ]
    assert main(["score", *to_score]) == 0
    scored = pq.read_table(tmp_path / "scores.parquet")
    assert scored.column_names == [*rows.column_names, "probability"]
    assert len(scored["probability"].unique()) > 20


def as_csv_split_by_a_column(table: OwnTable) -> None:
    columns, block = table.columns, table.schema["table"]
    columns["tags"] = [["red|blue", "green", ""][item % 3] for item in columns["item_id"]]
    columns["fold"] = ["abcdefghij"[row * 10 // len(columns["when"])] for row in range(len(columns["when"]))]
    table.schema["features"].append({"name": "tags", **TAGS})
    block |= {
        "files": "*.csv",
        "lists": {"tags": {"column": "tags", "separator": "|"}},
        "splits": {"column": "fold", "train": list("abcdefgh"), "validation": "i", "test": "j"},
    }
    table.write("clicks.csv")


def split_by_files(table: OwnTable) -> None:
    table.schema["table"] |= {"files": {"train": "train/*.parquet", "validation": "v.parquet", "test": "t.parquet"}}
    del table.schema["table"]["splits"]
    table.write()
    rows = pa.table(table.columns)
    (table.raw / "train").mkdir()
    parts = {"train/1": (0, 150), "train/2": (150, 150), "v": (300, 50), "t": (350, 50)}
    for name, (first, count) in parts.items():
        pq.write_table(rows.slice(first, count), table.raw / f"{name}.parquet")


def as_one_segment(table: OwnTable) -> None:
    table.schema["segments"] = ["everybody"]
    table.schema["table"]["segment"] = {"column": "device", "names": {"phone": "everybody", "desktop": "everybody"}}
    table.write()


@pytest.mark.parametrize(
    ("shape", "composition"),
    [
        (as_csv_split_by_a_column, "sequential"),
        (split_by_files, "parallel_conditional"),
        (as_one_segment, "conditional"),
    ],
)
def test_csv_files_split_by_column_by_file_or_by_time_with_one_segment_are_trained_on(
    shape: Callable[[OwnTable], None], composition: str, tmp_path: Path
):
    table = OwnTable(tmp_path)
    shape(table)
    assert main(["train", *table.words, *PRETRAIN, f"composition={composition}", "training_mode=frozen_tower"]) == 0
    _, scores = result_of(table)
    assert 0 < scores["auc/all"] < 1
    assert {name.partition("/")[2] for name in scores if name.startswith("auc/")} == {"all", *table.schema["segments"]}


def with_past(root: Path) -> OwnTable:
    table = OwnTable(root)
    table.schema["features"].append({"name": "user_rows", "kind": "dense", "used_by": ["interaction_network"]})
    table.schema["table"]["history"] = {
        "scope": "live",
        "features": {"user_rows": {"kind": "count", "by": ["user_id"]}},
    }
    table.write()
    return table


def test_any_name_of_the_folders_for_rows_and_runs_is_just_a_name(tmp_path: Path):
    table = with_past(tmp_path / "price=5 & a#b%20c" / "[x] d*e?")
    assert main(["train", *table.words, *PRETRAIN]) == 0
    run, scores = result_of(table)
    assert main(["evaluate", "--run", str(run)]) == 0
    rows, scored = str(table.raw / "clicks.parquet"), table.root / "scores.parquet"
    assert main(["score", "--run", str(run), "--input", rows, "--output", str(scored)]) == 0
    assert pq.read_metadata(scored).num_rows == len(table.columns["clicked"])
    # All else is always the same of a user or an item, or was counted, so that it is read from the events.
    few, again = table.root / "few.parquet", table.root / "again.parquet"
    pq.write_table(pa.table({name: table.columns[name] for name in ("when", "user_id", "item_id")}), few)
    words = ["--run", str(run), "--input", str(few), "--output", str(again), "--events", str(table.raw)]
    assert main(["score", *words]) == 0
    assert pq.read_table(again)["probability"].equals(pq.read_table(scored)["probability"])
    # The same rows under a plain name: the same figures to the last digit, and nothing beside the two folders.
    plain = with_past(tmp_path / "plain")
    assert main(["train", *plain.words, *PRETRAIN]) == 0
    assert result_of(plain)[1] == scores
    assert {path.name for path in tmp_path.iterdir()} == {"price=5 & a#b%20c", "plain"}


def test_vectors_made_elsewhere_become_the_tower_of_a_users_own_table(tmp_path: Path):
    table = OwnTable(tmp_path)
    vectors = [[float((item * place + place) % 7) for place in range(6)] for item in range(15)]
    imported = table.write_vectors(list(range(15)), vectors)
    assert main(["train", *table.words, *imported, "training_mode=frozen_tower"]) == 0
    (description,) = tmp_path.glob("towers/*/tower/tower.json")
    provenance = json.loads(description.read_text())["provenance"]
    assert provenance["ids_with_vector"] == 15
    assert provenance["ids_without_vector"] == 5
    (attached,) = tmp_path.rglob("import_receipt.json")
    receipt = json.loads(attached.read_text())
    assert receipt["digest"] == receipt["digest_after_sharding"]
    training = receipt["coverage"]["train"]["all"]
    assert training["rows"] == 14 * 20
    with_vector = [item < 15 for item in table.columns["item_id"][: 14 * 20]]
    assert training["rows_with_vector_share"] == pytest.approx(sum(with_vector) / len(with_vector))
