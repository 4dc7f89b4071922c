"""Models measured on the same test rows: means and spreads over seeds, and what a recipe gains over each other one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.ablation.intervals import spread_of
from recsys.all_segments import ALL
from recsys.metrics.auc import AUC
from recsys.metrics.grouped_auc import GROUPED_AUC
from recsys.metrics.log_loss import LOG_LOSS
from recsys.metrics.predictions import Predictions, QueryValues
from recsys.metrics.ranked_lists import name_at
from recsys.run.record import CUTOFF

NDCG, NDCG_NEW = "ndcg", "ndcg_new"
FIGURES = (AUC.name, LOG_LOSS.name, GROUPED_AUC.name, NDCG, NDCG_NEW)
"""What the table and the JSON object show, where it is defined."""
_RESAMPLES, _LEVEL = 400, 0.05
# Lists are stored at this cutoff, and so compared in pairs at it alone.
_PAIRED = {NDCG: name_at("ndcg", CUTOFF), NDCG_NEW: name_at("ndcg", CUTOFF, "new_to_user")}


@dataclass(frozen=True)
class Tested:
    """One model of one seed on the test split.

    Attributes:
        scores: "auc/all", "ndcg_20/all", ... as of a run.
        predictions: None for a model whose scores are of lists alone.
        queries: ranking metric with its cutoff -> its value for each query.
    """

    scores: Mapping[str, float]
    predictions: Predictions | None = None
    queries: Mapping[str, QueryValues] = field(default_factory=dict)

    def figure(self, name: str, cutoff: int) -> float | None:
        """One of `FIGURES`; lists are judged at `cutoff`."""
        scopes = {NDCG: name_at("ndcg", cutoff), NDCG_NEW: name_at("ndcg", cutoff, "new_to_user")}
        return self.scores.get(f"{scopes.get(name, name)}/{ALL}")


@dataclass(frozen=True)
class Gain:
    """Recipe minus another model: the mean over seeds, and its 95 % interval; None where that is unknown."""

    value: float
    half_width: float | None

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.value:+.4f}"
        return f"{self.value:+.4f} ({self.value - self.half_width:+.4f} to {self.value + self.half_width:+.4f})"


def summary(tested: Sequence[Tested], cutoff: int) -> dict[str, object]:
    """Each figure's mean over the seeds, None where undefined; "seeds", how many; "std", each figure's, None of one."""
    values = {name: [found for each in tested if (found := each.figure(name, cutoff)) is not None] for name in FIGURES}
    means = {name: float(np.mean(found)) if found else None for name, found in values.items()}
    spreads = {
        name: float(np.std(found, ddof=1)) if len(found) > 1 else None for name, found in values.items() if found
    }
    return {**means, "seeds": len(tested), "std": spreads}


def gains(recipe: Sequence[Tested], other: Sequence[Tested], segments: Sequence[str]) -> dict[str, Gain]:
    """What the recipe gains over another model, by figure: paired by test user, and by seed where there are several.

    A model of one seed stands beside every seed of the recipe. With one seed the interval allows for other users alone,
    with more for other seeds as well (`recsys/ablation/intervals.py`).
    """
    first = recipe[0].predictions
    assert first is not None
    bootstrap = UserBootstrap(first, recipe[0].queries, _RESAMPLES, seed=0)
    arms = [_measured(each, first, segments, bootstrap) for each in recipe]
    others = [_measured(each, first, segments, bootstrap) for each in other]
    found = {}
    for figure in FIGURES:
        key = (_PAIRED.get(figure, figure), ALL)
        if any(key not in arm.values for arm in (*arms, *others)) or other[0].figure(figure, CUTOFF) is None:
            continue
        # One of the others for each seed, again from the first where it has fewer.
        pairs = np.stack([arm.values[key] - others[seed % len(others)].values[key] for seed, arm in enumerate(arms)])
        if spread := spread_of(pairs, arms[0].support[key].effective_users):
            width = spread.half_width(_LEVEL) if spread.seeds > 1 else spread.half_width_of_users(_LEVEL)
            found[figure] = Gain(spread.difference, width)
    return found


def _measured(tested: Tested, rows: Predictions, segments: Sequence[str], bootstrap: UserBootstrap) -> MeasuredArm:
    predictions = tested.predictions or rows
    arm = measure_arm("", 0, predictions, tested.queries, segments, bootstrap)
    if tested.predictions is None:
        of_lists = {key: values for key, values in arm.values.items() if key[0] in tested.queries}
        return MeasuredArm("", 0, of_lists, arm.support, arm.fingerprints)
    return arm
