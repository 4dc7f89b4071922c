"""Sampled negatives: in proportion to weights, never a positive of their list, the same whatever else is sampled."""

import numpy as np
import pytest

from recsys.datasets.negatives import draw_negatives, hashed_uniforms


def drawn(lists=(0, 0, 1), items=(10, 11, 12), keys=(7, 8), seed=0, per_positive=4, weights=(1, 1, 1, 1, 1)):
    return draw_negatives(
        np.array(lists),
        np.array(items),
        np.array(keys, dtype=np.uint64),
        np.array([10, 11, 12, 13, 14]),
        np.array(weights, dtype=float),
        per_positive,
        seed,
    )


def test_each_positive_gets_its_negatives_and_none_stands_on_its_list():
    lists, items = drawn(per_positive=200)

    assert np.bincount(lists).tolist() == [400, 200]
    assert set(items[lists == 0].tolist()) == {12, 13, 14}
    assert set(items[lists == 1].tolist()) == {10, 11, 13, 14}


def test_negatives_are_drawn_in_proportion_to_their_weights_among_those_not_on_the_list():
    _, items = drawn(lists=(0,), items=(10,), keys=(7,), per_positive=20_000, weights=(5, 1, 2, 3, 4))

    shares = np.bincount(items, minlength=15)[11:] / len(items)
    # The standard error of a share of 20,000 draws is below 0.0036; four of them.
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)


def test_a_list_keeps_its_negatives_when_other_lists_come_and_go():
    alone = drawn(lists=(0,), items=(12,), keys=(8,))[1]
    lists, items = drawn()

    assert items[lists == 1].tolist() == alone.tolist()


def test_another_seed_draws_other_negatives():
    assert drawn(per_positive=50)[1].tolist() == drawn(per_positive=50)[1].tolist()
    assert drawn(per_positive=50)[1].tolist() != drawn(per_positive=50, seed=1)[1].tolist()


def test_a_list_that_holds_every_candidate_gets_no_negatives():
    lists, items = drawn(lists=(0, 0, 0, 0, 0, 1), items=(10, 11, 12, 13, 14, 10))

    assert 0 not in lists
    assert np.bincount(lists).tolist() == [0, 4]
    assert 10 not in items


def test_hashed_numbers_look_uniform_in_every_argument():
    keys, numbers = np.meshgrid(np.arange(100, dtype=np.uint64), np.arange(100))
    uniform = hashed_uniforms(0, keys.ravel(), numbers.ravel(), 0)

    assert len(np.unique(uniform)) == 10_000
    # Counts in 20 equal bins: chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand seeds.
    counts = np.histogram(uniform, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8
    assert not np.allclose(uniform, hashed_uniforms(0, keys.ravel(), numbers.ravel(), 1))
