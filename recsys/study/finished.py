"""A study's arms on disk: what each left behind, read back in the form that comparisons take."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from recsys.ablation.arms import Arm
from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.ablation.pairing import RunRecord
from recsys.evaluation.ranking import load_ranking
from recsys.evaluation.stored_predictions import load_predictions
from recsys.files import write_text_atomically
from recsys.metrics.auc import AUC
from recsys.metrics.predictions import Predictions, QueryValues
from recsys.progress import Progress
from recsys.run.folder import PREDICTIONS, QUERIES, RunResult

_Figure = TypeVar("_Figure")


@dataclass(frozen=True)
class FinishedArm:
    """An arm, the folder of its run, and what the run left behind."""

    arm: Arm
    folder: Path
    result: RunResult

    @property
    def record(self) -> RunRecord:
        """What its pairs are checked by."""
        return self.result.record

    def costs(self) -> dict[str, float]:
        """What it cost, as the study's table shows it."""
        return {
            "seconds_per_step": self.result.cost.wall_seconds / max(1, self.result.record.steps),
            "trained_parameters": float(self.result.learning_parameters),
            **self.result.cost.figures(),
        }

    def predictions(self) -> Predictions:
        """What the arm said about every test row."""
        return load_predictions(self.folder / PREDICTIONS)

    def queries(self) -> dict[str, QueryValues]:
        """Ranking metric -> its value for every query; empty where no candidates were ranked."""
        return load_ranking(self.folder / QUERIES).by_query() if (self.folder / QUERIES).is_dir() else {}


def by_condition(finished: Sequence[FinishedArm], figure: Callable[[FinishedArm], _Figure]) -> dict[str, list[_Figure]]:
    """Condition -> a figure of each of its arms, both in the order of the arms."""
    found: dict[str, list[_Figure]] = {}
    for each in finished:
        found.setdefault(each.arm.condition, []).append(figure(each))
    return found


def measure(
    finished: Sequence[FinishedArm], segments: Sequence[str], samples: int, progress: Progress
) -> list[MeasuredArm]:
    """Measure every arm on the same bootstrap samples of the users, one arm in memory at a time."""
    measured = []
    bootstrap: UserBootstrap | None = None
    for done, each in enumerate(finished):
        progress("bootstrapping users", done, len(finished))
        predictions, queries = each.predictions(), each.queries()
        bootstrap = bootstrap or UserBootstrap(predictions, queries, samples, seed=0)
        arm = each.arm
        measured.append(measure_arm(arm.condition, arm.seed, predictions, queries, segments, bootstrap))
    progress("bootstrapping users", len(finished), len(finished))
    return measured


def auc_intervals(
    measured: Sequence[MeasuredArm], segments: Sequence[str]
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Condition -> segment -> the mean AUC over seeds, and the 95 % bootstrap interval of that mean over users."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for condition in dict.fromkeys(arm.condition for arm in measured):
        arms = [arm for arm in measured if arm.condition == condition]
        for segment in segments:
            values = np.mean([arm.values[AUC.name, segment] for arm in arms], axis=0)
            if np.isfinite(values).all():
                low, high = np.quantile(values[1:], (0.025, 0.975))
                found.setdefault(condition, {})[segment] = (float(values[0]), float(low), float(high))
    return found


def write_json(path: Path, document: object) -> str:
    """Return a document as indented JSON, and write it to `path` as well."""
    text = json.dumps(document, indent=1)
    write_text_atomically(path, text + "\n")
    return text
