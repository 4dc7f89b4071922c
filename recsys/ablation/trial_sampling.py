"""Which values a trial takes: drawn by Optuna, as a function of the seed and the trials before it and nothing else.

So a search that was broken off goes on as if it had not been, and a longer one begins with the trials of a shorter one.
Sources: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), for the sampler; Akiba et al.,
"Optuna" (KDD 2019), for its implementation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from recsys.errors import TrainingError, UsageError

optuna.logging.set_verbosity(optuna.logging.WARNING)

Ranges = Mapping[str, tuple[float, float]]
"""Config key -> the lowest and the highest value, both above 0; searched on a logarithmic scale."""

_RANDOM_FIRST = 5  # trials before the sampler has seen enough to prefer some values
_SEEDS_PER_SEARCH = 100_000
_EDGE = 0.02  # of the logarithmic range


@dataclass(frozen=True)
class Trial:
    """One trial and how it went.

    Attributes:
        values: config key -> value.
        log_loss: the best of its validations; None where training failed.
        steps: taken.
        failure: why training failed; empty where it did not.
    """

    values: Mapping[str, float]
    log_loss: float | None
    steps: int
    seconds: float
    failure: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `Trial(**document)` reads back."""
        return asdict(self)


def next_values(
    ranges: Ranges, configured: Mapping[str, float], trials: Sequence[Trial], sampler: str, seed: int
) -> dict[str, float]:
    """Return the values of the trial after `trials`: those configured for the first, then drawn ones.

    Args:
        configured: the values as they stand in the configuration, each within its range.
        sampler: "tpe" or "random".

    >>> next_values({"rate": (0.001, 0.1)}, {"rate": 0.01}, [], "tpe", seed=0)
    {'rate': 0.01}

    Raises:
        UsageError: a configured value is out of its range.
    """
    for key, (low, high) in ranges.items():
        if not low <= configured[key] <= high:
            raise UsageError(
                f"`ablation.tune.ranges` searches `{key}` from {low:g} to {high:g}, and it is configured as "
                f"{configured[key]:g}. Widen the range, so that what is configured is one of its trials."
            )
    if not trials:
        return {key: configured[key] for key in ranges}
    space: dict[str, BaseDistribution] = {
        key: FloatDistribution(low, high, log=True) for key, (low, high) in ranges.items()
    }
    study = optuna.create_study(sampler=_sampler(sampler, seed * _SEEDS_PER_SEARCH + len(trials)))
    for trial in trials:
        study.add_trial(_frozen(trial, space))
    return {key: float(value) for key, value in study.ask(space).params.items()}


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the lowest validation log loss, the earliest of equals.

    Raises:
        TrainingError: none ended well.
    """
    ended = [trial for trial in trials if trial.log_loss is not None]
    if not ended:
        raise TrainingError(
            f"None of {len(trials)} trials ended well; the last one: {trials[-1].failure} Lower the ranges in "
            "`ablation.tune.ranges`."
        )
    return min(ended, key=lambda trial: trial.log_loss if trial.log_loss is not None else float("inf"))


def at_an_edge(trial: Trial, ranges: Ranges) -> list[str]:
    """Return the keys whose value lies at an end of its range, beyond which a better one may lie.

    >>> at_an_edge(Trial({"rate": 0.1}, 0.5, 10, 1.0), {"rate": (0.001, 0.1)})
    ['rate']
    """
    edges = []
    for key, (low, high) in ranges.items():
        reach = (high / low) ** _EDGE
        if trial.values[key] <= low * reach or trial.values[key] >= high / reach:
            edges.append(key)
    return edges


def _sampler(name: str, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed) if name == "random" else TPESampler(seed=seed, n_startup_trials=_RANDOM_FIRST)


def _frozen(trial: Trial, space: dict[str, BaseDistribution]) -> FrozenTrial:
    state = TrialState.FAIL if trial.log_loss is None else TrialState.COMPLETE
    return create_trial(state=state, params=dict(trial.values), distributions=space, value=trial.log_loss)
