"""Runs that stop and go on elsewhere: every row once an epoch, at any number of ranks and threads, bit for bit.

A life is what happens to one training: runs on some ranks, each with threads of its own, that stop after some
batches, in the middle of an epoch or beyond its end, and go on from the saved state.
"""

import itertools
import json
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.streaming.shuffle import ConsumedBatches
from tests.streaming.rows import open_stream, write_layout

few_examples = settings(max_examples=12, deadline=None)
layouts = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=5).filter(
    lambda layout: sum(map(sum, layout)) >= 4  # a row for each of the most ranks
)
orders = st.sampled_from(
    [{"shuffle": shuffle, "in_step": in_step} for shuffle in (False, True) for in_step in (False, True)]
)


@dataclass(frozen=True)
class Leg:
    """One run of a life."""

    ranks: int
    threads: int
    batch_size: int
    batches: int


legs = st.lists(
    st.builds(Leg, st.integers(1, 4), st.sampled_from([0, 1, 4]), st.integers(1, 6), st.integers(0, 12)),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    # A folder per example: Hypothesis runs many examples inside one test, and tmp_path is one per test.
    numbers = itertools.count()
    base = tmp_path_factory.mktemp("layouts")
    return lambda layout: write_layout(base / str(next(numbers)), layout)


def endless(stream):
    """Epoch after epoch, each batch with the epoch it belongs to."""
    was_empty = False
    while True:
        is_empty = True
        for batch in stream:
            is_empty = False
            yield stream.epoch, batch
        # The rest of an epoch that was read to its end is empty, and no other one.
        assert not (is_empty and was_empty)
        was_empty = is_empty


def bits(batch):
    """Every value of a batch, to the bit."""
    tensors = [batch.dense, batch.segment, batch.label, batch.weight, batch.sparse.values(), batch.sparse.lengths()]
    return [tensor.numpy().tobytes() for tensor in (*tensors, *batch.extra.values())]


def go_on(root, state, leg, rank, order):
    """Read one rank's batches of a leg; return them, and the state behind the last."""
    stream = open_stream(
        root, rank=rank, world_size=leg.ranks, decode_threads=leg.threads, batch_size=leg.batch_size, **order
    )
    if state is not None:
        # As it comes back from a checkpoint.
        stream.load_state_dict(json.loads(json.dumps(state)))
    read = list(itertools.islice(endless(stream), leg.batches))
    saved = stream.state_dict()
    stream.close()
    return read, saved


def live(root, rows, life, order):
    """Return the keys of every epoch in the order of the steps, and the epoch in which the life ended."""
    state, epochs = None, {}
    for leg in life:
        left = rows - len(epochs.get(state["epoch"], [])) if state else rows
        if 0 < left < leg.ranks:
            continue  # refused: a rank would get no row
        ranks = [go_on(root, state, leg, rank, order) for rank in range(leg.ranks)]
        # Ranks that made different numbers of batches would be at different places now.
        assert all(saved == ranks[0][1] for _, saved in ranks)
        for step in zip(*(read for read, _ in ranks), strict=True):
            assert len({epoch for epoch, _ in step}) == 1
            for epoch, batch in step:
                epochs.setdefault(epoch, []).extend(batch.extra["user_key"].tolist())
        state = ranks[0][1]
    rest, _ = go_on(root, state, Leg(1, 0, 5, rows), 0, order)
    ended = state["epoch"] if state else 0
    for epoch, batch in rest:
        if epoch == ended:
            epochs.setdefault(epoch, []).extend(batch.extra["user_key"].tolist())
    return epochs


@few_examples
@given(layout=layouts, life=legs, order=orders)
@example(
    layout=[[9], [3, 5], [8]],
    life=[Leg(1, 1, 3, 2), Leg(2, 0, 2, 2), Leg(3, 4, 1, 1), Leg(1, 1, 3, 1)],
    order={"shuffle": True, "in_step": False},
)
def test_every_epoch_of_a_life_has_every_row_once_and_all_ranks_make_the_same_steps(folders, layout, life, order):
    rows = sum(map(sum, layout))

    epochs = live(folders(layout), rows, life, order)

    assert sorted(epochs) == list(range(len(epochs)))
    assert all(sorted(keys) == list(range(rows)) for keys in epochs.values())


@settings(max_examples=8, deadline=None)
@given(layout=layouts, life=legs, shuffle=st.booleans())
def test_in_step_a_life_on_any_ranks_reads_the_rows_in_the_order_of_one_unbroken_process(
    folders, layout, life, shuffle
):
    root, rows = folders(layout), sum(map(sum, layout))
    order = {"shuffle": shuffle, "in_step": True}

    epochs = live(root, rows, life, order)

    unbroken = live(root, rows, [Leg(1, 0, 4, rows * len(epochs))], order)
    assert epochs == {epoch: unbroken[epoch] for epoch in epochs}


@few_examples
@given(
    layout=layouts,
    ranks=st.integers(1, 3),
    stops=st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 1, 4])), min_size=2, max_size=4),
    order=orders,
)
def test_a_life_on_the_same_ranks_has_the_bits_of_an_unbroken_one_however_often_it_stops(
    folders, layout, ranks, stops, order
):
    root = folders(layout)
    for rank in range(ranks):
        state, broken = None, []
        for batches, threads in stops:
            read, state = go_on(root, state, Leg(ranks, threads, 3, batches), rank, order)
            broken += read
        unbroken, end = go_on(root, None, Leg(ranks, 0, 3, len(broken)), rank, order)

        assert [(epoch, bits(batch)) for epoch, batch in broken] == [(epoch, bits(batch)) for epoch, batch in unbroken]
        assert end["stints"] == state["stints"]


@few_examples
@given(
    layout=layouts,
    before=st.builds(Leg, st.integers(1, 3), st.just(0), st.integers(1, 4), st.integers(0, 6)),
    after=st.builds(Leg, st.integers(1, 3), st.just(0), st.integers(1, 4), st.just(6)),
    threads=st.sampled_from([1, 4]),
    order=orders,
)
def test_going_on_at_other_ranks_is_the_same_to_the_bit_each_time_and_with_any_threads(
    folders, layout, before, after, threads, order
):
    root, rows = folders(layout), sum(map(sum, layout))
    _, state = go_on(root, None, before, 0, order)
    left = rows
    for run in state["stints"]:
        left -= sum(ConsumedBatches(**run).rows_by_rank(left))
    if 0 < left < after.ranks:
        return  # refused: a rank would get no row
    once, again = (
        [
            [(epoch, bits(batch)) for epoch, batch in go_on(root, state, leg, rank, order)[0]]
            for rank in range(after.ranks)
        ]
        for leg in (after, Leg(after.ranks, threads, after.batch_size, after.batches))
    )

    assert once == again
