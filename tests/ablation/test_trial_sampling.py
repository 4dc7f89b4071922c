"""Trials: drawn alike for every arm and after every interruption, within their ranges, the lowest loss wins."""

import math

import pytest

from recsys.ablation.trial_sampling import Trial, at_an_edge, best_trial, next_values
from recsys.errors import TrainingError, UsageError

RANGES = {"rate": (1e-4, 1e-1), "table_rate": (1e-2, 1.0)}
CONFIGURED = {"rate": 1e-3, "table_rate": 0.1}


def loss(values: dict[str, float]) -> float:
    """Lowest, 0, at a rate of 0.01 and a table rate of 0.3."""
    return math.log10(values["rate"] / 0.01) ** 2 + math.log10(values["table_rate"] / 0.3) ** 2


def search(number: int, sampler: str = "tpe", seed: int = 0, trials: tuple[Trial, ...] = ()) -> list[Trial]:
    found = list(trials)
    while len(found) < number:
        values = next_values(RANGES, CONFIGURED, found, sampler, seed)
        found.append(Trial(values, loss(values), 10, 1.0))
    return found


def test_the_first_trial_takes_what_is_configured_and_all_stay_within_their_ranges():
    trials = search(12)
    assert trials[0].values == CONFIGURED
    assert all(low <= trial.values[key] <= high for trial in trials for key, (low, high) in RANGES.items())
    assert len({tuple(trial.values.values()) for trial in trials}) == 12


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_broken_off_goes_on_as_if_it_had_not_been(sampler: str):
    whole = search(9, sampler)
    assert search(9, sampler, trials=tuple(whole[:4])) == whole


def test_another_seed_draws_other_values():
    assert search(3, seed=1)[1:] != search(3, seed=0)[1:]


def test_the_sampler_learns_where_the_loss_is_low():
    def mean_of_the_last(sampler: str) -> float:
        return sum(loss(dict(t.values)) for seed in range(3) for t in search(24, sampler, seed)[-8:]) / 24

    assert mean_of_the_last("tpe") < mean_of_the_last("random") / 2


def test_a_trial_that_failed_spends_budget_and_never_wins():
    failed = Trial({"rate": 0.05, "table_rate": 0.5}, None, 3, 1.0, "three batches in a row were not finite.")
    trials = search(3, trials=(*search(1), failed))
    assert len(trials) == 3
    assert best_trial(trials) is min((trials[0], trials[2]), key=lambda trial: trial.log_loss or 9)
    with pytest.raises(TrainingError, match=r"None of 1 trials ended well.*not finite"):
        best_trial([failed])


def test_of_equal_trials_the_first_wins():
    equal = [Trial(CONFIGURED, 0.5, 10, 1.0), Trial({"rate": 0.1, "table_rate": 0.1}, 0.5, 10, 1.0)]
    assert best_trial(equal) is equal[0]


def test_a_configured_value_out_of_its_range_is_refused_with_key_and_range():
    with pytest.raises(UsageError, match=r"searches `rate` from 0.0001 to 0.1, and it is configured as 0.5"):
        next_values(RANGES, {**CONFIGURED, "rate": 0.5}, [], "tpe", 0)


def test_a_best_value_at_an_end_of_its_range_is_noticed():
    assert at_an_edge(Trial({"rate": 0.01, "table_rate": 0.995}, 0.5, 10, 1.0), RANGES) == ["table_rate"]
    assert at_an_edge(Trial({"rate": 1.02e-4, "table_rate": 0.1}, 0.5, 10, 1.0), RANGES) == ["rate"]
