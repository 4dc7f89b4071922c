"""What costs promise: a saving is one that is seen above the noise, and is not paid for elsewhere."""

import pytest

from recsys.ablation.costs import cost_sentences, is_cheaper

FROZEN = {
    "seconds_per_step": 0.006,
    "wall_seconds": 30.0,
    "cpu_seconds": 24.0,
    "peak_memory_bytes": 9.0e8,
    "energy_joules": 600.0,
    "trained_parameters": 1_234.0,
}
FINE_TUNED = {
    "seconds_per_step": 0.010,
    "wall_seconds": 40.0,
    "cpu_seconds": 40.0,
    "peak_memory_bytes": 9.2e8,
    "energy_joules": 1_000.0,
    "trained_parameters": 5_000_000.0,
}


def test_less_time_and_energy_for_about_the_same_memory_is_cheaper():
    assert is_cheaper(FROZEN, FINE_TUNED)
    assert not is_cheaper(FINE_TUNED, FROZEN)


@pytest.mark.parametrize("name", ["cpu_seconds", "peak_gpu_memory_bytes", "energy_joules"])
def test_time_that_is_paid_for_with_something_else_is_no_win_for_free(name):
    dearer = {name: 2.0, "seconds_per_step": 0.006}
    assert not is_cheaper(dearer, {name: 1.0, "seconds_per_step": 0.010})


def test_a_few_per_cent_are_the_machines_noise():
    assert not is_cheaper({"cpu_seconds": 9.5}, {"cpu_seconds": 10.0})
    assert is_cheaper({"cpu_seconds": 8.5}, {"cpu_seconds": 10.0})


@pytest.mark.parametrize("name", ["wall_seconds", "peak_memory_bytes", "trained_parameters"])
def test_the_clock_on_the_wall_memory_and_the_number_of_parameters_decide_nothing(name):
    assert not is_cheaper({name: 1.0}, {name: 9.0})
    assert is_cheaper({"cpu_seconds": 1.0, name: 9.0}, {"cpu_seconds": 9.0, name: 1.0})


def test_what_is_not_known_of_both_is_not_compared():
    assert not is_cheaper({"cpu_seconds": 1.0}, {"energy_joules": 9.0})
    assert not is_cheaper({}, {})
    assert cost_sentences("frozen_tower", {"cpu_seconds": 1.0}, {"energy_joules": 9.0}) == []


def test_costs_are_told_as_ratios_with_the_figures_beside_them():
    assert cost_sentences("frozen_tower", FROZEN, FINE_TUNED) == [
        "A step of frozen_tower takes 0.60 times as long (6.0 ms against 10.0 ms) and trains 1,234 parameters against "
        "5,000,000.",
        "A run of it takes 0.75 times the time by the clock (30.0 s against 40.0 s), 0.60 times the processor time "
        "(24.0 s against 40.0 s), 0.98 times the memory (900 MB against 920 MB) and 0.60 times the energy (600 J "
        "against 1,000 J).",
    ]


def test_a_run_of_which_only_totals_are_known_is_told_by_them():
    told = cost_sentences("frozen_tower", {"energy_joules": 50_000.0}, {"energy_joules": 100_000.0})
    assert told == ["A run of frozen_tower takes 0.50 times the energy (50 kJ against 100 kJ)."]
