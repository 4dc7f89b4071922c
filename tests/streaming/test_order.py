"""The order as arithmetic: every row once, pools within their bound, one sequence for any number of ranks in step."""

from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.streaming.row_groups import RowGroup
from recsys.streaming.shuffle import ConsumedBatches, EpochOrder, RoundRobin, batch_sizes, count_batches, count_rows

# No file is touched, so examples are cheap.
many_examples = settings(max_examples=150, deadline=None)
layouts = st.lists(st.integers(1, 40), min_size=1, max_size=12)
# Which row groups are not whole but go on where the one before them ended, as parts of a huge one.
parts = st.frozensets(st.integers(1, 11), max_size=8)
# The runs that read an epoch one after the other: ranks, batch size, batches until the stop.
runs = st.lists(
    st.builds(ConsumedBatches, st.integers(1, 5), st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=5
)


def order_of(layout, *, seed=3, shuffle=True, buffer=32, in_step=False, parts=frozenset()):
    """Row groups of these sizes; row r of the layout is row r of them joined in file order."""
    # What a part is known by is that it does not begin at row 0; where it does begin plays no role here.
    groups = tuple(
        RowGroup(Path(), "part.parquet", index, rows, first=int(index in parts)) for index, rows in enumerate(layout)
    )
    return EpochOrder(groups, seed, shuffle, buffer, in_step)


def rows_in(stream, layout):
    """The rows of the layout, in the order in which a rank reads them."""
    first = np.concatenate([[0], np.cumsum(layout)])
    rows = []
    for part in stream:
        joined = np.concatenate([np.arange(one.start, one.stop) + first[one.group.index] for one in part.pool.slices])
        order = part.pool.order()
        rows += (joined if order is None else joined[order])[part.start : part.stop].tolist()
    return rows


@many_examples
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_blocks_leave_whole_and_each_once(lengths, seed):
    starts = np.cumsum([0, *lengths[:-1]])
    (pool,) = order_of([sum(lengths)], seed=seed, buffer=100).streams(0, 1, 4, [])[0]

    order = pool.pool.order(starts).tolist()

    assert sorted(order) == list(range(sum(lengths)))
    blocks = {int(start): list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)}
    while order:
        block = blocks.pop(order[0])
        assert order[: len(block)] == block
        order = order[len(block) :]


def test_blocks_leave_in_another_order_in_every_epoch():
    starts = np.arange(0, 60, 3)
    orders = [order_of([60], buffer=100).streams(epoch, 1, 4, [])[0][0].pool.order(starts).tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert list(range(60)) not in orders


def in_batches(rows, batches, batch_size):
    """One rank's rows, cut as its stream cuts them."""
    ends = np.cumsum([0, *batch_sizes(len(rows), batches, batch_size)])
    return [rows[start:stop] for start, stop in pairwise(ends)]


def read_with_stops(order, layout, past):
    """Read an epoch in such runs, the last one to the end; return the steps, each with the rows of every rank."""
    steps = []
    for number, run in enumerate(past):
        streams = order.streams(0, run.world_size, run.batch_size, past[:number])
        left = sum(map(count_rows, streams))
        if left:
            batches = count_batches(left, run.world_size, run.batch_size)
            ranks = [in_batches(rows_in(stream, layout), batches, run.batch_size) for stream in streams]
            read = list(zip(*ranks, strict=True))
            steps += read if run is past[-1] else read[: run.batches]
    return steps


def possible(layout, past):
    """The past with as many ranks as find a row each; more are refused by a stream."""
    kept, left = [], sum(layout)
    for run in past:
        kept.append(replace(run, world_size=min(run.world_size, max(left, 1))))
        left -= sum(kept[-1].rows_by_rank(left))
    return kept


@many_examples
@given(
    layout=layouts,
    past=runs,
    buffer=st.integers(1, 90),
    shuffle=st.booleans(),
    in_step=st.booleans(),
    parts=parts,
)
def test_every_row_comes_once_however_often_the_ranks_change(layout, past, buffer, shuffle, in_step, parts):
    order = order_of(layout, shuffle=shuffle, buffer=buffer, in_step=in_step, parts=parts)

    steps = read_with_stops(order, layout, possible(layout, past))

    assert sorted(row for step in steps for batch in step for row in batch) == list(range(sum(layout)))


@many_examples
@given(layout=layouts, past=runs, shuffle=st.booleans())
def test_in_step_any_ranks_with_any_stops_read_the_sequence_of_one(layout, past, shuffle):
    order = order_of(layout, shuffle=shuffle, in_step=True)
    (alone,) = order.streams(0, 1, 4, [])

    steps = read_with_stops(order, layout, possible(layout, past))

    assert [row for step in steps for batch in step for row in batch] == rows_in(alone, layout)


@many_examples
@given(layout=layouts, past=runs)
def test_in_step_and_unshuffled_no_row_comes_before_one_of_an_earlier_step(layout, past):
    order = order_of(layout, shuffle=False, in_step=True)

    steps = read_with_stops(order, layout, possible(layout, past))

    joined = [[row for batch in step for row in batch] for step in steps]
    assert all(max(earlier) < min(later) for earlier, later in pairwise(joined))


def test_in_step_the_ranks_take_batches_in_turn_and_divide_the_last_step():
    order = order_of([5, 6], shuffle=False, in_step=True)

    steps = read_with_stops(order, [5, 6], [ConsumedBatches(world_size=2, batch_size=2, batches=3)])

    assert steps == [([0, 1], [2, 3]), ([4, 5], [6, 7]), ([8], [9, 10])]


@many_examples
@given(layout=layouts, world_size=st.integers(1, 5), in_step=st.booleans(), parts=parts)
def test_every_rank_meets_the_parts_of_a_huge_row_group_together_and_in_their_order(layout, world_size, in_step, parts):
    begins = [place for place in range(len(layout)) if place not in parts]
    order = order_of(layout, in_step=in_step, parts=parts)
    for stream in order.streams(0, min(world_size, sum(layout)), 4, []):
        met = [one.group.index for part in stream for one in part.pool.slices]
        huge = [max(begin for begin in begins if begin <= index) for index in met]
        together = [list(places) for _, places in groupby(range(len(met)), key=huge.__getitem__)]
        assert len(together) == len(set(huge))
        assert all([met[place] for place in places] == sorted(met[place] for place in places) for places in together)


@many_examples
@given(rows=st.integers(1, 60), world_size=st.integers(1, 5), batch_size=st.integers(1, 9))
def test_turns_are_the_batches_that_every_rank_counts(rows, world_size, batch_size):
    if rows < world_size:
        return
    batches = count_batches(rows, world_size, batch_size)
    last_step = (batches - 1) * world_size * batch_size

    for rank in range(world_size):
        turns = RoundRobin(rank, world_size, batch_size, rows)
        taken = np.flatnonzero(np.diff(turns.before(np.arange(rows + 1))))
        for step in range(batches - 1):
            first = (step * world_size + rank) * batch_size
            assert taken[step * batch_size : (step + 1) * batch_size].tolist() == list(range(first, first + batch_size))
        assert len(taken[taken >= last_step]) == len(taken) - (batches - 1) * batch_size >= 1


@many_examples
@given(layout=layouts, buffer=st.integers(1, 90), world_size=st.integers(1, 5), in_step=st.booleans())
def test_no_pool_is_larger_than_the_buffer_or_the_one_row_group_in_it(layout, buffer, world_size, in_step):
    if sum(layout) < world_size:
        return
    for stream in order_of(layout, buffer=buffer, in_step=in_step).streams(0, world_size, 4, []):
        for part in stream:
            assert len(part.pool.slices) == 1 or count_rows(part.pool.slices) <= buffer


@many_examples
@given(layout=layouts, world_size=st.integers(1, 5), shuffle=st.booleans())
def test_ranks_get_as_many_rows_as_each_other_whatever_the_sizes_of_the_row_groups(layout, world_size, shuffle):
    if sum(layout) < world_size:
        return
    for in_step in (False, True):
        streams = order_of(layout, shuffle=shuffle, in_step=in_step).streams(0, world_size, 4, [])
        rows = list(map(count_rows, streams))
        assert max(rows) - min(rows) <= 1


def test_row_groups_come_in_an_order_of_their_own_in_every_epoch():
    layout = [10] * 20
    order = order_of(layout, buffer=10)

    orders = [[row // 10 for row in rows_in(order.streams(epoch, 1, 4, [])[0], layout)[::10]] for epoch in range(3)]

    assert all(sorted(groups) == list(range(20)) for groups in orders)
    assert all(one != other for one, other in pairwise([list(range(20)), *orders]))
