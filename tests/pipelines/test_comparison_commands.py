"""`recsys compare`, `recsys runs` and `recsys ui`: what is recorded, without a browser, from any store."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.tracking import names
from recsys.tracking.run import start_run
from recsys.tracking.store import TrackingStore
from tests.faults.commands import Commands
from tests.tracking.servers import TrackingServer, free_port

STUDY = "frozen_vs_finetuned-1a2b"
VERDICT = "Freeze the tower. It costs less."
COMPARISON = {
    "contrast": {"axis": "training_mode", "first": "e2e", "second": "frozen", "first_value": "end_to_end",
                 "second_value": "frozen_tower", "held": {"composition": "parallel"}},
    "differences": [
        {"metric": "auc", "segment": "all", "users": 1200, "difference": 0.0101, "low": 0.001, "high": 0.02,
         "verdict": "better"},
        {"metric": "auc", "segment": "new", "users": 17, "difference": -0.5, "low": None, "high": None,
         "verdict": "not enough evidence"},
        {"metric": "log_loss", "segment": "all", "users": 1200, "difference": -0.0303, "low": -0.04, "high": -0.02,
         "verdict": "better"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study of two arms and two seeds, one arm that failed, and an unfinished study."""
    folder = tmp_path_factory.mktemp("runs")
    _log_all(TrackingStore.in_folder(folder, "shop"))
    return folder


def _log_all(store: TrackingStore) -> None:
    for arm, auc in (("frozen", 0.7), ("e2e", 0.8)):
        for seed in (0, 1):
            _log_arm(store, STUDY, arm, seed, auc + 0.02 * seed)
    with pytest.raises(ValueError, match="burnt"), _arm(store, STUDY, "frozen", 2):
        raise ValueError("burnt")
    tags = {names.TAG_KIND: "study", names.TAG_ABLATION_ID: STUDY, names.TAG_VERDICT: VERDICT}
    with start_run(store, f"study/{STUDY}", {}, tags) as run:
        run.attach(names.COMPARISONS_FILE, json.dumps([COMPARISON]))
    _log_arm(store, "later-9f9f", "frozen", 0, 0.6)


def _arm(store: TrackingStore, study: str, arm: str, seed: int):
    tags = {names.TAG_KIND: "arm", names.TAG_ABLATION_ID: study, names.TAG_ARM: arm}
    return start_run(store, f"{arm}/s{seed}", {names.PARAM_SEED: seed, "other": 1}, tags)


def _log_arm(store: TrackingStore, study: str, arm: str, seed: int, auc: float) -> None:
    with _arm(store, study, arm, seed) as run:
        run.log_final(names.evaluation_metrics(names.TEST, {"auc": auc, "log_loss": 0.5}, {"new": {"auc": auc - 0.2}}))


def test_compare_prints_scores_differences_with_intervals_and_the_verdict(runs: Path, capsys):
    assert main(["compare", "--study", "frozen_vs", f"runtime.runs={runs}"]) == 0

    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    # 0.70 and 0.72: mean 0.71, deviation 0.0141; the failed third seed does not count.
    assert {"frozen 2 0.7100±0.0141 0.5000±0.0000", "frozen 2 0.5100±0.0141"} <= set(lines)
    assert "end_to_end minus frozen_tower, AUC (parallel)" in lines
    assert "all 1,200 +0.0101 +0.0010 to +0.0200 better" in lines
    assert "new 17 -0.5000 - not enough evidence" in lines
    assert f"Verdict. {VERDICT}" in lines
    assert not [line for line in lines if "0.0303" in line], "another metric's difference was printed as AUC's"


def test_compare_can_show_another_metric_and_names_those_there_are(runs: Path, capsys):
    assert main(["compare", "--study", STUDY, "--metric", "log_loss", f"runtime.runs={runs}"]) == 0
    assert "-0.0303" in capsys.readouterr().out

    assert main(["compare", "--study", STUDY, "--metric", "ndcg", f"runtime.runs={runs}"]) == 2
    assert "'ndcg'; frozen_vs_finetuned-1a2b was compared in auc, log_loss" in capsys.readouterr().err


def test_compare_as_json_is_one_document_with_the_numbers_in_full(runs: Path, capsys):
    assert main(["compare", "--study", STUDY, "--json", f"runtime.runs={runs}"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert (document["study"], document["experiment"], document["verdict"]) == (STUDY, "shop", VERDICT)
    assert document["comparisons"] == [COMPARISON]
    arms = {(arm["name"], arm["status"]): arm for arm in document["arms"]}
    assert set(arms) == {("frozen/s0", "FINISHED"), ("frozen/s1", "FINISHED"), ("frozen/s2", "FAILED"),
                         ("e2e/s0", "FINISHED"), ("e2e/s1", "FINISHED")}  # fmt: skip
    assert arms["e2e/s1", "FINISHED"]["metrics"]["test_auc/new"] == pytest.approx(0.62)
    assert arms["e2e/s1", "FINISHED"]["params"] == {"seed": "1"}


def test_a_study_without_a_verdict_says_how_far_it_is_and_is_the_newest(runs: Path, capsys):
    assert main(["compare", f"runtime.runs={runs}"]) == 0

    told = " ".join(capsys.readouterr().out.split())
    assert "later-9f9f in shop" in told
    assert "There is none yet: 1 of the 1 runs of its arms so far have finished" in told


@pytest.mark.parametrize(("wanted", "code", "told"), [
    ("nothing", 65, "no study 'nothing'; it has: later-9f9f, frozen_vs_finetuned-1a2b."),
    ("a' or 'b", 2, "is no id of a study"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["compare", "runs", "ui"])
def test_a_study_that_is_not_there_is_named_with_those_that_are(command, wanted, code, told, runs: Path, capsys):
    assert main([command, "--study", wanted, f"runtime.runs={runs}"]) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "runs", "ui"])
def test_reading_where_nothing_was_recorded_says_so_and_makes_nothing(command, tmp_path: Path, capsys):
    assert main([command, f"runtime.runs={tmp_path}/none"]) == 65
    assert "No runs are recorded in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_are_listed_newest_first_with_status_scores_and_verdict(runs: Path, capsys):
    assert main(["runs", f"runtime.runs={runs}"]) == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    rows = [line.split() for line in lines if line.endswith(("1a2b", "9f9f"))]
    assert [row[0] for row in rows] == [
        *("frozen/s0", f"study/{STUDY}", "frozen/s2", "e2e/s1", "e2e/s0", "frozen/s1", "frozen/s0"),
    ]
    assert rows[3][1:4] == ["0.8200", "0.5000", "finished"]
    assert rows[2][1:4] == ["-", "-", "failed"]
    assert f"{STUDY}: Freeze the tower." in lines


def test_runs_as_json_can_be_those_of_one_study(runs: Path, capsys):
    assert main(["runs", "--json", "--study", "later", f"runtime.runs={runs}"]) == 0

    (run,) = json.loads(capsys.readouterr().out)
    assert (run["name"], run["study"], run["status"]) == ("frozen/s0", "later-9f9f", "FINISHED")
    assert run["metrics"]["test_auc/all"] == 0.6


@pytest.fixture(scope="module")
def server(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """A tracking server with the same runs."""
    with TrackingServer(commands, tmp_path_factory.mktemp("server")) as running:
        _log_all(TrackingStore(running.uri, "shop", tmp_path_factory.mktemp("spools")))
        yield running


def test_a_tracking_server_tells_the_same_to_a_machine_without_the_runs_folder(
    runs: Path, server: TrackingServer, tmp_path: Path, capsys
):
    printed = []
    for words in ([f"runtime.runs={runs}"], [f"tracking.uri={server.uri}", f"runtime.runs={tmp_path}/none"]):
        assert main(["compare", "--study", STUDY, *words]) == 0
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1]
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_ends_the_command_with_69_within_seconds(tmp_path: Path, capsys):
    assert main(["runs", f"tracking.uri=http://127.0.0.1:{free_port()}", f"runtime.runs={tmp_path}"]) == 69
    assert "does not answer" in capsys.readouterr().err


def test_ui_over_a_server_prints_where_the_study_stands_there(server: TrackingServer, tmp_path: Path, capsys):
    assert main(["ui", "--study", STUDY, f"tracking.uri={server.uri}", f"runtime.runs={tmp_path}"]) == 0

    told = capsys.readouterr().out
    assert f"{STUDY}: arms, mean over seeds: {server.uri}/#/experiments/1/runs?viewStateShareKey=" in told


def test_ui_refuses_a_taken_port_and_says_what_to_do(runs: Path, server: TrackingServer, capsys):
    assert main(["ui", "--port", str(server.port), f"runtime.runs={runs}"]) == 75
    message = capsys.readouterr().err
    assert f"Port {server.port} of 127.0.0.1 is taken by process " in message
    assert f"Open http://127.0.0.1:{server.port}, " in message


def test_ui_opens_the_studys_page_in_the_browser_once_the_server_answers(runs: Path, tmp_path: Path):
    opened, port = tmp_path / "opened", free_port()
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\ncurl -s "http://127.0.0.1:{port}/health" > {opened}.health\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "pipelines.cli", "ui", "--open", "--study", STUDY, "--port", str(port)]
    process = subprocess.Popen(
        [*command, f"runtime.runs={runs}"], env={**os.environ, "BROWSER": f"{browser} %s"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Where the tests run in the background, a shell has had them ignore Ctrl-C, and their children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        _wait_for(opened, process)
        assert opened.read_text().startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?viewStateShareKey=")
        assert Path(f"{opened}.health").read_text() == "OK"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if file.exists() and file.read_text().endswith("\n"):
            return
        assert process.poll() is None, "the command ended"
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("no browser was opened within a minute")
