"""A budget follows the rows: batches, epochs and rates."""

from itertools import pairwise

import pytest

from recsys.training.budget import MOST_EPOCHS, SMALLEST_BATCH, STEPS_PER_EPOCH, budget_for


@pytest.mark.parametrize("rows", [1, 50, 2_000, 6_800, 10_000, 50_000, 80_000, 300_000, 2_400_000, 50_000_000])
def test_every_number_of_rows_has_a_budget_within_bounds(rows: int) -> None:
    budget = budget_for(rows, 2048, 1_000_000, 2048)

    assert SMALLEST_BATCH <= budget.batch_size <= 2048
    assert 1 <= budget.epochs <= MOST_EPOCHS
    assert budget.rate_factor == pytest.approx((budget.batch_size / 2048) ** 0.5)


def test_more_rows_never_mean_smaller_batches_or_more_epochs() -> None:
    budgets = [budget_for(rows, 2048, 1_000_000, 2048) for rows in range(1_000, 400_000, 777)]

    assert all(a.batch_size <= b.batch_size and a.epochs >= b.epochs for a, b in pairwise(budgets))


def test_an_epoch_has_about_so_many_steps_where_batches_are_within_bounds() -> None:
    for rows in (10_000, 50_000, 80_000, 120_000):
        steps = rows / budget_for(rows, 2048, 1_000_000, 2048).batch_size
        assert STEPS_PER_EPOCH / 1.5 <= steps <= STEPS_PER_EPOCH * 1.5
