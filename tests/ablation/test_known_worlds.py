"""The calibration of the verdicts in small: real arms through the real parts, and how their verdicts are counted.

The whole of it is a benchmark, whose table stands in docs/verdicts.md: python tests/benchmarks/verdicts.py
"""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from recsys.ablation.comparison import Verdict

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BETTER, WORSE, EQUIVALENT, OPEN = Verdict.BETTER, Verdict.WORSE, Verdict.EQUIVALENT, Verdict.OPEN


@pytest.fixture
def verdicts(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("verdicts")


def test_a_study_of_real_arms_finds_a_planted_difference_and_none_where_there_is_none(verdicts, tmp_path):
    laboratory = verdicts.Laboratory(tmp_path, replace(verdicts.Size(), rows=150_000))

    def judged() -> dict[str, dict[str, float]]:
        verdicts._workshop.cache_clear()
        worlds = ("seed_only", "freezing_is_right")
        return verdicts.figures([verdicts.judge(laboratory, world, 0, 5, None) for world in worlds])

    found = judged()
    assert found["studies"] == {"seed_only": 1, "freezing_is_right": 1}
    assert found["false_verdicts"] == {"seed_only": 0, "freezing_is_right": 0}
    assert found["right_verdicts"] == {"seed_only": 1, "freezing_is_right": 1}
    # What is there already is judged again, not trained again.
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictions.safetensors")}
    assert len(made) == 2 * 2 * 5
    assert judged() == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictions.safetensors")} == made


def _counted(verdicts: ModuleType, world: str, *found: Verdict) -> dict[str, float]:
    judged = [verdicts.Judged(world, number, 0.01, verdict, (), None, None) for number, verdict in enumerate(found)]
    return {name: values[world] for name, values in verdicts.figures(judged).items()}


def test_where_nothing_differs_every_difference_is_false_and_both_ways_of_finding_none_are_right(verdicts):
    counted = _counted(verdicts, "seed_only", BETTER, WORSE, EQUIVALENT, OPEN, OPEN)
    assert (counted["studies"], counted["false_verdicts"], counted["right_verdicts"]) == (5, 2, 3)
    assert (counted["opposite_verdicts"], counted["open_verdicts"]) == (0, 2)


@pytest.mark.parametrize(
    ("world", "right", "opposite"), [("freezing_is_right", BETTER, WORSE), ("fine_tuning_is_right", WORSE, BETTER)]
)
def test_a_planted_difference_may_be_found_missed_or_denied(verdicts, world, right, opposite):
    counted = _counted(verdicts, world, right, right, right, opposite, EQUIVALENT, OPEN)
    assert (counted["right_verdicts"], counted["opposite_verdicts"]) == (3, 1)
    # To say that the two are equivalent is false as well; to leave it open is not.
    assert (counted["false_verdicts"], counted["open_verdicts"]) == (2, 1)


def test_a_study_counts_once_however_many_of_its_segments_are_judged_falsely(verdicts):
    judged = [
        verdicts.Judged("seed_only", 0, 0.0, OPEN, (BETTER, WORSE, OPEN), None, None),
        verdicts.Judged("freezing_is_right", 0, 0.0, BETTER, (BETTER, EQUIVALENT, OPEN), None, None),
        verdicts.Judged("fine_tuning_is_right", 0, 0.0, WORSE, (WORSE, BETTER, BETTER), None, None),
    ]
    counted = verdicts.figures(judged)["studies_with_a_false_verdict_in_a_segment"]
    assert counted == {"seed_only": 1, "freezing_is_right": 0, "fine_tuning_is_right": 1}


def test_studies_that_were_run_on_are_counted_with_those_that_this_settled(verdicts):
    judged = [
        verdicts.Judged("seed_only", 0, 0.0, OPEN, (), 9, True),
        verdicts.Judged("seed_only", 1, 0.0, OPEN, (), 11, False),
        verdicts.Judged("seed_only", 2, 0.0, OPEN, (), 60, None),
        verdicts.Judged("seed_only", 3, 0.0, BETTER, (), None, None),
    ]
    counted = verdicts.figures(judged)
    assert counted["open_studies_run_on"] == {"seed_only": 2}
    assert counted["settled_by_the_seeds_asked_for"] == {"seed_only": 1}
