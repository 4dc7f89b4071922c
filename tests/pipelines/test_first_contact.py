"""The first things that a newcomer types, from whatever folder: a wrong word, no word, a release just downloaded."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from tests.datasets.archives import releases
from tests.pipelines.own_table import PRETRAIN


def said(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that ends with this code says on standard error."""
    try:
        ended = main(words)
    except SystemExit as left:
        ended = int(left.code or 0)
    assert ended == code
    return capsys.readouterr().err


def test_no_word_at_all_shows_the_commands_and_where_to_start(capsys: pytest.CaptureFixture[str]):
    message = said([], 2, capsys)
    assert "simulate a world and answer the project's question on it" in message
    assert "start with `recsys demo`" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "there is no command `trian`; did you mean `recsys train`?"),
        (["frobnicate"], "the commands are demo, fetch, inspect, init, prepare"),
        (["train", "fast"], "unknown argument `fast`"),
        (["train", "data", "=", "table"], "unknown argument `data`"),
        (["train", "--verbose"], "unknown argument `--verbose`"),
        (["fetch"], "required: source"),
        (["evaluate"], "required: --run"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    assert expected in said(words, 2, capsys)


def test_fetching_what_nobody_publishes_lists_what_there_is(capsys: pytest.CaptureFixture[str]):
    message = said(["fetch", "netflix"], 2, capsys)
    assert "Unknown source 'netflix'; expected one of online_retail, movielens-100k" in message


def test_data_that_were_never_fetched_are_asked_for_with_the_command_that_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    message = said(["prepare", "data=online_retail"], 65, capsys)
    assert f"There is no raw data at data/raw/online_retail (`data.raw`), as seen from {tmp_path}" in message
    assert "recsys fetch --help" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("write", "words", "segments"),
    [
        (releases.write_100k, [], {"under_25", "25_34", "35_plus"}),
        (releases.write_1m, [], {"under_25", "25_34", "35_plus"}),
        (releases.write_csv, ["data.schema_path=data/schemas/movielens_csv.yaml"], {"heavy"}),
    ],
)
def test_a_movielens_release_is_prepared_and_trained_on_from_any_working_folder(
    write: Callable[[Path], Path],
    words: list[str],
    segments: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    draw = np.random.default_rng(3)
    ratings = [(*draw.integers((1, 7, 1), (4, 10, 6)).tolist(), 100 + second) for second in range(600)]
    monkeypatch.setattr(releases, "RATINGS", ratings)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ml")
    # The schema's path, as `conf/` has it, is one of the clone and not of this folder.
    words = ["data=movielens", "data.raw=ml", *words, "experiment=smoke", "runtime.threads=1"]
    words += ["runtime.device=cpu", *PRETRAIN]
    assert main(["prepare", *words]) == 0
    assert "Next: recsys train data=movielens data.raw=ml" in capsys.readouterr().out
    assert main(["train", *words, "tracking.system_metrics=false", "network.field_width=4"]) == 0
    (result,) = tmp_path.glob("runs/movielens/*/result.json")
    scores = json.loads(result.read_text())["scores"]
    assert {name.partition("/")[2] for name in scores if name.startswith("auc/")} == {"all", *segments}
