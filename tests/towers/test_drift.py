"""What drift is of vectors whose movement is known: none, a rotation, noise, a few planted movers."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.towers.drift import (
    NeighbourRule,
    VectorDrift,
    measure_drift,
    stratified_sample,
    summarise,
    worst_movers,
)
from recsys.towers.drift_groups import day_bins, popularity_bins

COUNT, WIDTH = 400, 8
RULE = NeighbourRule(count=10, queries=1000, pool=50_000, seed=0)
ONES, ONE_STRATUM = np.ones(COUNT), np.zeros(COUNT, np.int64)


def vectors(seed: int = 0) -> Tensor:
    return torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(seed))


def rotation() -> Tensor:
    return torch.linalg.qr(vectors(1)[:WIDTH].double())[0].float()


def in_blocks(before: Tensor, after: Tensor, size: int = 96) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(before.split(size), after.split(size), strict=True)


def drift_of(after: Tensor, rule: NeighbourRule = RULE) -> VectorDrift:
    return measure_drift(in_blocks(vectors(), after), ONE_STRATUM, rule)


def test_vectors_that_did_not_move_have_a_drift_of_exactly_0_and_keep_all_neighbours():
    drift = drift_of(vectors())

    assert (drift.cosine == 1).all()
    assert (drift.norm_change == 0).all()
    assert (drift.overlap == 1).all()
    assert len(worst_movers(drift, 5)) == 0
    summary = summarise(drift, ONES)
    assert summary is not None
    assert (summary.cosine_distance, summary.neighbours_lost, summary.norm_change) == (0, 0, 0)


def test_a_rotation_turns_every_vector_and_leaves_every_neighbour():
    summary = summarise(drift_of(vectors() @ rotation()), ONES)

    assert summary is not None
    assert summary.cosine_distance > 0.5
    assert summary.neighbours_lost == 0
    assert summary.norm_change < 1e-6


def test_noise_turns_little_and_loses_neighbours():
    summary = summarise(drift_of(vectors() + 0.3 * vectors(2)), ONES)

    assert summary is not None
    assert summary.cosine_distance < 0.1
    assert summary.neighbours_lost is not None
    assert summary.neighbours_lost > 0.2


def test_lengths_are_compared_with_the_longer_of_the_two_and_do_not_turn_a_vector():
    drift = drift_of(torch.cat([2 * vectors()[:1], 0.5 * vectors()[1:]]))

    np.testing.assert_allclose(drift.norm_change, [0.5] + [-0.5] * (COUNT - 1), atol=1e-7)
    np.testing.assert_allclose(drift.cosine, 1, atol=1e-12)


def test_a_vector_that_became_zero_has_a_cosine_of_0_and_one_that_stays_zero_has_not_moved():
    before, after = vectors(), vectors()
    before[3] = after[3] = after[5] = 0
    drift = measure_drift(in_blocks(before, after), ONE_STRATUM, RULE)

    assert (drift.cosine[3], drift.cosine[5]) == (1, 0)
    assert (drift.norm_change[3], drift.norm_change[5]) == (0, -1)


def test_planted_movers_are_the_worst_in_order_and_weigh_as_much_as_their_rows():
    after = vectors()
    after[[7, 300]] = torch.stack([-after[7], after[300] + 0.5 * vectors(3)[300]])
    drift = drift_of(after)

    assert worst_movers(drift, 10).tolist() == [7, 300]
    rows = np.ones(COUNT)
    rows[7] = COUNT - 1
    weighted, plain = summarise(drift, rows), summarise(drift, ONES)
    assert weighted is not None
    assert plain is not None
    assert weighted.cosine_distance > 100 * plain.cosine_distance
    assert summarise(drift, np.zeros(COUNT)) is None


def test_the_size_of_the_blocks_changes_nothing_and_a_short_stream_of_them_is_refused():
    after = vectors() + 0.3 * vectors(2)
    one = drift_of(after)
    other = measure_drift(in_blocks(vectors(), after, size=7), ONE_STRATUM, RULE)

    np.testing.assert_allclose(one.cosine, other.cosine, atol=1e-12)
    np.testing.assert_array_equal(one.overlap, other.overlap)
    with pytest.raises(ValueError, match="hold 399 vectors; expected 400"):
        measure_drift(in_blocks(vectors()[1:], after[1:]), ONE_STRATUM, RULE)


def test_a_sample_of_queries_and_pool_is_seeded_and_tells_about_what_all_tell():
    after = vectors() + 0.3 * vectors(2)
    all_of_them, rule = drift_of(after), NeighbourRule(count=10, queries=150, pool=COUNT, seed=3)
    sampled = drift_of(after, rule)

    assert len(sampled.queries) == 150
    assert sampled.stands_for.sum() == pytest.approx(COUNT)
    np.testing.assert_array_equal(sampled.queries, drift_of(after, rule).queries)
    assert sampled.overlap.mean() == pytest.approx(all_of_them.overlap.mean(), abs=0.03)
    pooled = drift_of(after, NeighbourRule(count=10, queries=50, pool=100, seed=3))
    assert (pooled.pool, len(pooled.queries)) == (100, 50)


def test_a_sample_takes_all_of_a_small_stratum_and_says_what_each_place_stands_for():
    strata = np.array([0] * 3 + [1] * 97)
    places, stands_for = stratified_sample(strata, 20, seed=0)

    assert places[:3].tolist() == [0, 1, 2]
    assert len(places) == 20
    np.testing.assert_allclose(stands_for[:3], 1)
    np.testing.assert_allclose(stands_for[3:], 97 / 17)


def test_groups_hold_a_quarter_of_the_rows_or_of_the_items_each():
    names, groups = popularity_bins(np.array([1] * 30 + [10, 20, 30]))
    assert names[0] == "rows 0-25 %"
    assert groups[[32, 31, 30]].tolist() == [0, 1, 2]
    assert set(groups[:30]) == {2, 3}

    names, groups = day_bins(np.array([0, 0, 1, 2, 3, 3, 3, 3]), ["a", "b", "c", "d"])
    assert names == ("a", "b to c", "d")
    assert groups.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
