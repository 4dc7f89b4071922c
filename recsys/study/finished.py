"""A study's arms on disk: what each left behind, read back in the form that comparisons take."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.ablation.arms import Arm
from recsys.ablation.resampling import ArmPredictions, MeasuredArm, QueryValues, UserResamples, measure_arm
from recsys.ablation.tables import ArmResult
from recsys.evaluation.predictions import load_predictions
from recsys.evaluation.ranking import load_ranking
from recsys.files import write_text_atomically
from recsys.monitoring.cost import Cost
from recsys.progress import Progress
from recsys.run.folder import PREDICTIONS, QUERIES, RunResult


@dataclass(frozen=True)
class FinishedArm:
    """An arm, the folder of its run, and what the run left behind."""

    arm: Arm
    folder: Path
    result: RunResult

    def figures(self) -> ArmResult:
        """The arm's row of the study's table."""
        costs = {
            "seconds_per_step": self.result.train_seconds / max(1, self.result.steps),
            "trained_parameters": float(self.result.learning_parameters),
            **Cost(**self.result.cost).figures(),
        }
        return ArmResult(self.arm.condition, self.arm.seed, self.result.scores, costs)

    def predictions(self) -> ArmPredictions:
        """What the arm said about every test row and, where candidates were ranked, about every query."""
        rows = load_predictions(self.folder / PREDICTIONS)
        queries: dict[str, QueryValues] = {}
        if (self.folder / QUERIES).is_dir():
            ranking = load_ranking(self.folder / QUERIES)
            queries = {name: QueryValues(*columns) for name, columns in ranking.by_query().items()}
        return ArmPredictions(
            condition=self.arm.condition,
            seed=self.arm.seed,
            logit=rows.logit,
            label=rows.label,
            segment=rows.segment,
            weight=rows.weight,
            user=rows.extra.get("user_key"),
            queries=queries,
        )


def measure(
    finished: Sequence[FinishedArm], segments: Sequence[str], resamples: int, progress: Progress
) -> list[MeasuredArm]:
    """Measure every arm on the same resampled users, one arm in memory at a time."""
    measured = []
    draws: UserResamples | None = None
    for done, each in enumerate(finished):
        progress("resampling users", done, len(finished))
        predictions = each.predictions()
        draws = draws or UserResamples(predictions, resamples, seed=0)
        measured.append(measure_arm(predictions, segments, draws))
    progress("resampling users", len(finished), len(finished))
    return measured


def auc_intervals(
    measured: Sequence[MeasuredArm], segments: Sequence[str]
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Condition -> segment -> the mean AUC over seeds, and the 95 % interval of that mean over resampled users."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for condition in dict.fromkeys(arm.condition for arm in measured):
        arms = [arm for arm in measured if arm.condition == condition]
        for segment in segments:
            values = np.mean([arm.values["auc", segment] for arm in arms], axis=0)
            if np.isfinite(values).all():
                low, high = np.quantile(values[1:], (0.025, 0.975))
                found.setdefault(condition, {})[segment] = (float(values[0]), float(low), float(high))
    return found


def write_json(path: Path, document: object) -> str:
    """Return a document as indented JSON, and write it to `path` as well."""
    text = json.dumps(document, indent=1)
    write_text_atomically(path, text + "\n")
    return text
