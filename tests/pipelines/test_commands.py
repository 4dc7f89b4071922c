"""The command line as a user types it: what is printed, what is left behind, how it ends."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import COMMANDS, main
from recsys.config.compose import compose_config
from recsys.datasets.decode import raw_rows
from recsys.progress import silent
from recsys.run.folder import RESULT
from recsys.run.prepare import run as prepare
from tests.pipelines.conftest import runs_folder, small_overrides


def run_folders(overrides: list[str]) -> list[Path]:
    return sorted(path.parent for path in (runs_folder(overrides) / "simulated").glob("*/config.json"))


@pytest.fixture(scope="module")
def trained(small_world: list[str]) -> Path:
    """The folder of one finished run with a frozen tower and a conditional composition."""
    before = set(run_folders(small_world))
    assert main(["train", *small_world, "training_mode=frozen_tower", "composition=conditional"]) == 0
    (folder,) = set(run_folders(small_world)) - before
    return folder


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"recsys {command}" in capsys.readouterr().out.partition("example:")[2]


@pytest.mark.parametrize(
    "command", [command.name for command in COMMANDS if not any(option.required for option in command.options)]
)
def test_a_dry_run_prints_the_configuration_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    positional = {"fetch": ["online_retail"], "inspect": ["rows"], "init": ["rows"]}.get(command, [])
    own = {"fetch": [], "init": ["runtime.threads=7"], "inspect": ["training.batch_size=7"]}
    words = own.get(command, [f"runtime.runs={tmp_path}/seven"])
    assert main([command, *positional, "--dry-run", *words]) == 0
    printed = json.loads(capsys.readouterr().out.partition("Dry run:")[0])
    is_overridden = printed["runtime"]["threads"] == 7 or printed["training"]["batch_size"] == 7
    assert "fetch" in command or "seven" in printed["runtime"]["runs"] or is_overridden
    assert list(tmp_path.iterdir()) == []


def test_training_leaves_a_result_predictions_a_proof_and_a_served_model(trained: Path):
    result = json.loads((trained / RESULT).read_text())
    assert 0 < result["scores"]["auc/all"] < 1
    assert result["frozen_proof"]["embedding_tower"]["is_unchanged"]
    for name in ("config.json", "evaluation.json", "curves.jsonl", "predictions", "model/MLmodel"):
        assert (trained / name).exists(), name


def test_evaluating_a_run_gives_the_scores_that_training_reported(
    trained: Path, small_world: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "--run", str(trained), *small_world]) == 0
    expected = json.loads((trained / RESULT).read_text())["scores"]["auc/all"]
    assert f"{expected:.4f}" in capsys.readouterr().out


def test_scoring_raw_rows_gives_each_a_probability_beside_its_own_columns(
    trained: Path, small_world: list[str], tmp_path: Path
):
    encoded = prepare(compose_config(small_world), silent)
    rows, output = tmp_path / "rows.parquet", tmp_path / "scores.parquet"
    pq.write_table(next(raw_rows(encoded, "test")), rows)
    assert main(["score", "--run", str(trained), "--input", str(rows), "--output", str(output)]) == 0
    scored = pq.read_table(output)
    assert scored.num_rows == pq.read_metadata(rows).num_rows
    assert all(0 < value < 1 for value in scored["probability"].to_pylist())
    assert len(set(scored["probability"].to_pylist())) > 1


def test_scoring_rows_without_a_column_names_it_and_leaves_no_output(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows, output = tmp_path / "rows.parquet", tmp_path / "scores.parquet"
    pq.write_table(pa.table({"user_id": [1]}), rows)
    assert main(["score", "--run", str(trained), "--input", str(rows), "--output", str(output)]) == 65
    assert "is missing" in capsys.readouterr().err
    assert not output.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_raw_data_that_is_not_there_ends_with_65_and_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    absent = tmp_path / "absent"
    overrides = ["data=ml_100k", f"data.raw={absent}", f"runtime.encoded={tmp_path}/encoded"]
    assert main(["prepare", *overrides]) == 65
    assert str(absent) in capsys.readouterr().err


def test_an_output_that_cannot_be_written_ends_with_73_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    overrides = [*small_overrides(tmp_path), f"runtime.runs={blocked}/runs"]
    began = time.perf_counter()
    assert main(["train", *overrides]) == 73
    assert time.perf_counter() - began < 5
    assert "Cannot write" in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare"], "`recsys prepare` prepares rows in one process"),
        (["ablate"], "`recsys ablate` starts the processes of its arms by itself"),
        (["daily"], "`recsys daily` does all its work in one process"),
        (["train"], "RANK is not set. Start several processes with `torchrun --nproc-per-node 2 -m recsys train"),
    ],
)
def test_several_processes_are_refused_where_each_would_do_the_same_work(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "WORLD_SIZE is 2" in error
    assert says in error


def test_a_run_that_is_not_there_ends_with_65(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "--run", str(tmp_path)]) == 65
    assert str(tmp_path) in capsys.readouterr().err
