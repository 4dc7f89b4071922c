"""A frozen tower's vectors are remembered: the same bits, computed once, forgotten when the tower changes."""

import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from recsys.composition.conditional import SegmentRoutedComposition
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.errors import TrainingError, UsageError
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import whole_state
from recsys.towers.tower_spec import TowerKind, TowerSpec
from recsys.training.cache import TowerCache
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import load_whole_state
from tests.small_model import JOINED_WIDTH, ROWS, Row, batch_of, small_ranker, small_schema
from tests.training.saved_runs import resume_run, save_run
from tests.training.small_run import Batches, SmallRun, small_run

STEPS = 12
ROUTES = [["interaction_network"], ["embedding_tower"], ["embedding_tower", "interaction_network"]]


def many_rows(seed: int, count: int = 100) -> list[Row]:
    """Rows of few different users and items; so many that a live layer multiplies them as it does any larger batch."""
    draw = random.Random(seed)

    def row() -> Row:
        user, item = draw.randrange(5), draw.randrange(6)
        recent = tuple(draw.randrange(6) for _ in range(draw.randrange(3)))
        return Row(user / 3, user, item, item / 4 - 1, item % 3, recent, draw.randrange(3), draw.randrange(2))

    return [row() for _ in range(count)]


BATCHES = [batch_of(many_rows(seed)) for seed in range(3)]


# Layers of at most eight numbers give a row other last bits at another place in its batch; those of real towers do not.
TWO_TOWER = TowerSpec.two_tower(small_schema(), width=16, table_dimension=4, hidden_widths=[20])
SPECS = {
    "two-tower": TWO_TOWER,
    "imported": TowerSpec.imported(small_schema(), width=4),
    "imported, items only": TowerSpec(TowerKind.IMPORTED, 4, 4, (), (), ("item_id",)),
}


def frozen_run(context, *, spec: TowerSpec = TWO_TOWER, routed: bool = False) -> SmallRun:
    def compose(projection):
        if routed:
            return SegmentRoutedComposition(projection, ROUTES, None)
        return ParallelComposition(projection, ConcatJoin(JOINED_WIDTH))

    run = small_run(context, "frozen_tower", ranker=small_ranker(compose, spec=spec))
    run.stream = Batches(list(BATCHES))
    return run


def tower_of(run: SmallRun):
    return run.ranker.module.embedding_tower


def cached(run: SmallRun, megabytes: int = 1) -> TowerCache:
    return TowerCache(run.ranker, megabytes, run.context)


def count_rows(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Note, per call of the live tower, how many rows each side was computed for."""
    counts, live = [], tower_of(run).side_vectors

    def counted(batch, rows=None):
        counts.append([len(batch)] * 2 if rows is None else [len(own.unique()) for own in rows])
        return live(batch, rows)

    monkeypatch.setattr(tower_of(run), "side_vectors", counted)
    return counts


@pytest.mark.parametrize("routed", [False, True], ids=["parallel", "routed"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_training_with_the_cache_equals_training_without_it_bit_for_bit(context, spec, routed):
    plain, fast = frozen_run(context, spec=spec, routed=routed), frozen_run(context, spec=spec, routed=routed)
    cache = cached(fast)

    losses = [[report.loss for report in run.train(STEPS)] for run in (plain, fast)]

    assert losses[0] == losses[1]
    expected, found = whole_state(plain.ranker), whole_state(fast.ranker)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert cache.record()["answered_share"] > 0.5


def test_each_side_is_computed_once_for_each_of_its_inputs(context, monkeypatch):
    run = frozen_run(context)
    cache = cached(run)
    cache(BATCHES[0])  # makes the stores and has its full check
    cache(batch_of(ROWS[:1]))
    counts = count_rows(run, monkeypatch)
    same_user_other_item = [ROWS[0], replace(ROWS[1], **user_half(ROWS[0]))]

    run.ranker(batch_of(same_user_other_item))
    run.ranker(batch_of(same_user_other_item))

    # The user of both rows was known; the item of the second was not, and then was.
    assert counts == [[0, 1]]


def user_half(row) -> dict[str, object]:
    return {name: getattr(row, name) for name in ("age", "user_id", "recent")}


def test_once_everything_is_held_the_tower_is_not_called(context, monkeypatch):
    run = frozen_run(context)
    cached(run)
    run.train(3)
    counts = count_rows(run, monkeypatch)

    run.train(9)

    assert counts == []


def test_a_full_cache_answers_for_what_it_has_and_computes_the_rest(context, monkeypatch):
    monkeypatch.setattr("recsys.training.cache.capacity_of", lambda megabytes, width: 4)  # two per side
    plain, fast = frozen_run(context), frozen_run(context)
    cache = cached(fast)

    losses = [[report.loss for report in run.train(STEPS)] for run in (plain, fast)]

    assert losses[0] == losses[1]
    assert cache.record()["vectors_held"] == [2, 2]
    assert 0 < cache.record()["answered_share"] < 1


def test_a_resumed_run_with_a_cold_cache_equals_the_unbroken_one_bit_for_bit(context, tmp_path):
    unbroken, first, second = (frozen_run(context) for _ in range(3))
    cached(unbroken)
    unbroken.train(STEPS)
    cached(first)
    first.train(5)
    save_run(first, tmp_path)

    cached(second)
    resume_run(second, tmp_path)
    second.train(STEPS)

    expected, found = whole_state(unbroken.ranker), whole_state(second.ranker)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def nudge_a_layer(run: SmallRun) -> None:
    with torch.no_grad():
        tower_of(run).user_side[0][0].weight[0, 0] += 0.5


def nudge_a_table(run: SmallRun) -> None:
    inventory_of(tower_of(run)).shards()[0].weight[1:] += 0.5


def load_other_weights(run: SmallRun) -> None:
    state = whole_state(run.ranker)
    load_whole_state(run.ranker, {name: tensor * 1.5 for name, tensor in state.items()})


@pytest.mark.parametrize("change", [nudge_a_layer, nudge_a_table, load_other_weights])
def test_a_changed_tower_is_computed_anew(context, change):
    run, batch = frozen_run(context), BATCHES[0]
    cache = cached(run)
    run.ranker(batch)
    before = cache.record()["tower_digest"]

    change(run)

    fresh = tower_of(run)(batch)
    cache.close()
    assert torch.equal(fresh, tower_of(run)(batch))
    assert cache.record()["tower_digest"] != before


def test_weights_that_are_written_but_equal_leave_the_cache_as_it_is(context, monkeypatch):
    run, batch = frozen_run(context), BATCHES[0]
    cached(run)
    run.ranker(batch)
    counts = count_rows(run, monkeypatch)

    load_whole_state(run.ranker, whole_state(run.ranker))
    run.ranker(batch)

    assert counts == []


def test_training_steps_do_not_make_the_digest_be_taken_again(context, monkeypatch):
    run = frozen_run(context)
    cache = cached(run)
    monkeypatch.setattr(cache, "_tower_digest", lambda: pytest.fail("digested again"))

    run.train(STEPS)


def write_behind_its_back(run: SmallRun, side: str) -> None:
    """Change a weight in a way that no version counter sees."""
    getattr(tower_of(run), side)[-1].bias.data.numpy()[:] += 1.0


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_vector_that_is_not_the_live_towers_is_found_and_named(context, monkeypatch, side):
    monkeypatch.setattr("recsys.training.cache._CHECK_EVERY", 5)
    run = frozen_run(context)
    cached(run)
    run.train(2)

    write_behind_its_back(run, f"{side}_side")

    with pytest.raises(TrainingError, match=rf"`embedding_tower`.*the {side} vector of row \d+ of batch 5 by [\d.]+"):
        run.train(STEPS)


@pytest.mark.parametrize(("tf32", "gap", "is_told"), [(False, 1e-3, True), (True, 1e-3, False), (True, 1e-2, True)])
def test_what_counts_as_another_towers_vector_depends_on_the_bits_that_products_keep(
    context, monkeypatch, tf32, gap, is_told
):
    monkeypatch.setattr("recsys.training.cache.uses_tf32", lambda device: tf32)
    monkeypatch.setattr("recsys.training.cache._CHECK_EVERY", 5)
    run = frozen_run(context)
    cached(run)
    run.train(2)
    live = tower_of(run).side_vectors
    monkeypatch.setattr(tower_of(run), "side_vectors", lambda *asked: [vectors + gap for vectors in live(*asked)])

    with pytest.raises(TrainingError, match="differ from the live tower's") if is_told else nullcontext():
        run.train(STEPS)


def test_a_tower_that_reads_more_than_it_declares_is_refused_at_the_first_batch(context, monkeypatch):
    run = frozen_run(context)
    tower, digests = tower_of(run), tower_of(run).side_digests
    # As if the user side read a feature that its digest leaves out: all rows look alike.
    monkeypatch.setattr(tower, "side_digests", lambda batch: [torch.zeros_like(digests(batch)[0]), digests(batch)[1]])
    cached(run)

    with pytest.raises(TrainingError, match=r"the user vector of row \d+ of batch 0"):
        run.train(1)


def test_a_thawed_tower_answers_for_itself_for_good(context):
    run, batch = frozen_run(context), BATCHES[0]
    cached(run)
    run.ranker(batch)
    tower = tower_of(run)

    tower.is_frozen = False
    thawed = tower(batch)
    tower.is_frozen = True

    assert thawed.grad_fn is not None
    assert tower.cache is None


def test_a_tower_that_learns_is_not_cached(context):
    with pytest.raises(UsageError, match="Only a frozen tower can be cached"):
        TowerCache(small_run(context).ranker, 1, context)


def test_a_tower_whose_bits_depend_on_the_batch_is_left_to_answer_for_itself(context, monkeypatch):
    plain, fast = frozen_run(context), frozen_run(context)
    tower, live = tower_of(fast), tower_of(fast).side_vectors
    monkeypatch.setattr(  # the last bit differs where single rows are asked for
        tower,
        "side_vectors",
        lambda batch, rows=None: [each * (1 + 1e-7 * (rows is not None)) for each in live(batch, rows)],
    )
    cache = cached(fast)

    losses = [[report.loss for report in run.train(STEPS)] for run in (plain, fast)]

    assert losses[0] == losses[1]
    assert not cache.record()["is_in_use"]
    assert 0 < cache.record()["largest_gap"] < 1e-6


def test_the_cache_draws_no_random_number_of_the_run(context, monkeypatch):
    monkeypatch.setattr("recsys.training.cache._CHECK_EVERY", 1)
    run = frozen_run(context)
    cached(run)
    before = torch.get_rng_state()

    run.train(3)

    assert torch.equal(torch.get_rng_state(), before)


def test_vectors_are_kept_in_single_precision_whatever_a_step_computes_in(context):
    run = frozen_run(context)
    live = tower_of(run).side_vectors(BATCHES[0])
    cache = cached(run)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        run.ranker(BATCHES[0])

    assert all(torch.equal(mine, own) for mine, own in zip(cache(BATCHES[0]), live, strict=True))


# In the second step only the second process meets rows that it has not seen.
HALVES = [[many_rows(0), many_rows(1)], [many_rows(0), many_rows(2)]]


def train_in_two(context) -> dict[str, object]:
    plain, fast = frozen_run(context), frozen_run(context)
    for run in (plain, fast):
        run.stream = Batches([batch_of(step[context.rank]) for step in HALVES])
    cache = cached(fast)
    losses = [[report.loss for report in run.train(6)] for run in (plain, fast)]
    expected, found = whole_state(plain.ranker), whole_state(fast.ranker)
    batch = fast.stream.batches[0]
    # One table, which lies in one of the processes: the other one's piece of the tower is the same as before.
    table = "embedding_tower.ebc.embedding_bags.tower_brand.weight"
    load_whole_state(fast.ranker, found | {table: found[table] + 0.5})
    answered = tower_of(fast)(batch)
    cache.close()
    return {
        "same_after_a_table_changed": torch.equal(answered, tower_of(fast)(batch)),
        "same_losses": losses[0] == losses[1],
        "different": [name for name in expected if not torch.equal(expected[name], found[name])],
        "answered": cache.record()["answered_share"],
    }


def test_two_processes_with_the_cache_equal_two_without_it(tmp_path):
    for result in run_in_two(train_in_two, tmp_path):
        assert result["same_losses"]
        assert result["same_after_a_table_changed"]
        assert result["different"] == []
        assert result["answered"] > 0.5


def test_a_store_has_no_more_places_than_rows_can_come(context):
    run = frozen_run(context)
    cache = TowerCache(run.ranker, 1, context, most_rows=3)
    try:
        cache(BATCHES[0])
        assert [store.held for store in cache._stores] == [3, 3]
    finally:
        cache.close()
