"""`recsys evaluate`: the numbers are those of the rows that were named, or there are none."""

import json
import math
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.run.fitted_baselines import shortfall
from recsys.run.folder import RESULT
from tests.pipelines.own_table import PRETRAIN, OwnTable

VALIDATION_START, TEST_START = datetime(2024, 3, 15), datetime(2024, 3, 18)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> OwnTable:
    return OwnTable(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def run(table: OwnTable) -> Path:
    """The folder of a finished run on the table."""
    assert main(["train", *table.words, *PRETRAIN]) == 0
    (folder,) = table.root.glob("runs/table/*/")
    return folder


def elsewhere(table: OwnTable, root: Path, column: str, change) -> Path:
    """Another raw folder with the same rows, one column changed where `change` says so, by value and time."""
    other = OwnTable(root)
    other.columns[column] = [change(*each) for each in zip(other.columns[column], other.columns["when"], strict=True)]
    other.write()
    return other.raw


def test_other_rows_of_the_same_contract_are_measured_in_place_of_the_runs_own(
    table: OwnTable, run: Path, tmp_path: Path, capsys
):
    own = json.loads((run / RESULT).read_text())["scores"]["auc/all"]
    # The training rows, and so the contract, stay what they are; every test row has the other label.
    flipped = elsewhere(table, tmp_path, "clicked", lambda x, when: 1 - x if when >= datetime(2024, 3, 18) else x)
    assert main(["evaluate", "--run", str(run), f"data.raw={flipped}"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if "│ auc " in line)
    assert float(line.split("│")[2]) == pytest.approx(1 - own, abs=5e-5)
    assert f"on rows of {flipped}" in printed


def test_rows_whose_ids_are_others_are_refused_by_the_table_that_differs(table, run, tmp_path, capsys):
    shifted = elsewhere(table, tmp_path, "item_id", lambda item, when: item + 100)
    assert main(["evaluate", "--run", str(run), f"data.raw={shifted}"]) == 65
    message = capsys.readouterr().err
    assert f"The ranker of {run} was made with vocabulary of table `item_id`" in message
    assert "use the data that it was made with" in message


@pytest.mark.parametrize(
    ("split", "hint"),
    [
        ("tset", "Did you mean test?"),
        ("Train", "Did you mean train?"),
        ("valid", "Did you mean validation?"),
        ("x", ""),
    ],
)
def test_a_split_that_is_not_there_is_answered_with_those_that_are(run: Path, split: str, hint: str, capsys):
    assert main(["evaluate", "--run", str(run), "--split", split]) == 2
    message = capsys.readouterr().err.strip()
    assert f"--split is '{split}'; the splits that have rows are " in message
    assert {"train", "validation", "test"} <= set(message.replace(",", " ").replace(".", " ").split())
    assert message.endswith(hint or "train.") or "Did you mean" not in message


def test_a_raw_folder_that_moved_is_found_where_it_is_now(table: OwnTable, run: Path, tmp_path: Path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(table.raw, moved)
    assert main(["evaluate", "--run", str(run), "--split", "validation", f"data.raw={moved}", *table.words[3:]]) == 0
    assert "on validation" in capsys.readouterr().out


def test_both_baselines_are_measured_on_the_rows_of_the_split_and_kept_with_the_run(table: OwnTable, run: Path, capsys):
    kept = json.loads((run / RESULT).read_text())["baselines"]
    assert main(["evaluate", "--run", str(run)]) == 0
    printed = capsys.readouterr().out

    label, when = table.columns["clicked"], table.columns["when"]
    train = [x for x, moment in zip(label, when, strict=True) if moment < VALIDATION_START]
    test = [x for x, moment in zip(label, when, strict=True) if moment >= TEST_START]
    rate = sum(train) / len(train)
    constant = -sum(math.log(rate if x else 1 - rate) for x in test) / len(test)
    assert kept["constant"]["auc/all"] == 0.5
    assert kept["constant"]["log_loss/all"] == pytest.approx(constant, rel=1e-5)
    for name, scores in kept.items():
        line = next(line for line in printed.splitlines() if f"baseline: {name}" in line)
        shown = [float(cell) for cell in line.split("│")[2:4]]
        assert shown == [round(scores["auc/all"], 4), round(scores["log_loss/all"], 4)]


def test_a_ranker_that_is_no_better_than_a_baseline_is_told_so_by_metric():
    better = {"auc/all": 0.7, "log_loss/all": 0.5, "normalised_entropy/all": 0.9}
    worse = {"auc/all": 0.6, "log_loss/all": 0.6, "normalised_entropy/all": 0.95}
    assert shortfall("ranker", better, "logistic", worse) == ""
    told = shortfall("ranker", worse, "logistic", better)
    assert told.startswith("ranker does not beat the logistic baseline: AUC 0.6000 against 0.7000, log loss 0.6000")
    # Equal is no better, and what is undefined on these rows is not compared.
    assert "AUC 0.7000 against 0.7000" in shortfall("ranker", better, "logistic", better)
    assert shortfall("ranker", {"log_loss/all": 0.4}, "logistic", better) == ""
