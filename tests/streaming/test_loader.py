"""What the stream promises: every row once, in an order that only (seed, epoch) decide, whole batches, clean ends."""

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.errors import DataError, UsageError
from recsys.streaming import rows
from recsys.streaming.loader import BatchStream
from tests.streaming.rows import CONTRACT, encoded_rows, keys, open_stream, write_layout
from tests.worlds import write_encoded_world

layouts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5)
# A folder per example: Hypothesis runs many examples inside one test, and tmp_path is one per test.
few_examples = settings(max_examples=20, deadline=None)


def rows_of(layout):
    return sum(map(sum, layout))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    numbers = itertools.count()
    base = tmp_path_factory.mktemp("layouts")
    return lambda layout: write_layout(base / str(next(numbers)), layout)


def test_a_batch_holds_the_rows_of_the_file_with_every_value_in_its_place(tmp_path):
    write_layout(tmp_path, [[3], [3]])

    batches = list(open_stream(tmp_path, shuffle=False, batch_size=4, extras=("true_probability", "user_key")))

    assert [len(batch) for batch in batches] == [4, 2]
    first = batches[0]
    assert first.dense.tolist() == [[0.0, 0.0], [0.5, -1.0], [1.0, -2.0], [1.5, -3.0]]
    assert first.sparse.keys() == ["user_id", "recent", "item_id"]
    assert first.sparse["user_id"].values().tolist() == [16777217, 16777216, 16777215, 16777214]
    assert first.sparse["recent"].lengths().tolist() == [0, 1, 2, 3]
    assert first.sparse["recent"].values().tolist() == [1, 1, 2, 1, 2, 3]
    assert first.sparse["item_id"].values().tolist() == [0, 1, 2, 3]
    assert first.segment.tolist() == [0, 1, 2, 0]
    assert first.label.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert first.weight.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert first.extra["user_key"].tolist() == [0, 1, 2, 3]
    assert first.extra["true_probability"].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert batches[1].sparse["recent"].lengths().tolist() == [0, 1]
    assert batches[1].sparse["recent"].values().tolist() == [1]


def test_tensors_have_the_types_that_the_batch_promises(tmp_path):
    batch = next(iter(open_stream(write_layout(tmp_path, [[3]]))))

    assert batch.dense.dtype == batch.label.dtype == batch.weight.dtype == torch.float32
    assert batch.sparse.values().dtype == batch.segment.dtype == torch.int64
    assert batch.sparse.stride() == len(batch) == 3
    assert batch.extra["user_key"].dtype == torch.int64


def test_a_shuffled_row_keeps_all_of_its_values(tmp_path):
    write_layout(tmp_path, [[5, 9], [8, 3], [25]])
    expected = encoded_rows(0, 50).to_pylist()

    for batch in open_stream(tmp_path, shuffle=True, batch_size=7):
        recent = batch.sparse["recent"].to_dense()
        for place, key in enumerate(batch.extra["user_key"].tolist()):
            row = expected[key]
            assert batch.dense[place].tolist() == [row["age"], row["price"]]
            assert batch.sparse["user_id"].values()[place] == row["user_id"]
            assert recent[place].tolist() == row["recent"]
            assert batch.sparse["item_id"].values()[place] == row["item_id"]
            assert batch.segment[place] == row["segment"]
            assert batch.label[place] == row["label"]
            assert batch.weight[place] == row["weight"]


def test_only_the_extras_that_were_asked_for_are_read(tmp_path):
    write_layout(tmp_path, [[3]])

    assert next(iter(open_stream(tmp_path, extras=()))).extra == {}
    with pytest.raises(UsageError, match=r"extra column `query` was asked for, but this data carries \['user_key'"):
        open_stream(tmp_path, extras=("query",))


@few_examples
@given(layout=layouts, batch_size=st.integers(1, 12), buffer=st.integers(1, 30), world_size=st.integers(1, 4))
def test_every_row_comes_exactly_once_whatever_the_files_and_ranks(folders, layout, batch_size, buffer, world_size):
    root = folders(layout)
    changed = {"batch_size": batch_size, "shuffle_buffer_rows": buffer, "world_size": world_size}
    if rows_of(layout) < world_size:
        with pytest.raises(DataError, match=r"0 rows|cannot be shared among"):
            open_stream(root, **changed)
        return

    streams = [open_stream(root, rank=rank, **changed) for rank in range(world_size)]
    ranks = [keys(stream) for stream in streams]

    assert sorted(key for batches in ranks for batch in batches for key in batch) == list(range(rows_of(layout)))
    assert {len(batches) for batches in ranks} == {streams[0].num_batches}
    assert [sum(map(len, batches)) for batches in ranks] == [stream.num_rows for stream in streams]
    assert max(stream.num_rows for stream in streams) - min(stream.num_rows for stream in streams) <= 1
    for batches in ranks:
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= batch_size + (world_size > 1)


@few_examples
@given(layout=layouts, threads=st.sampled_from([1, 4]), shuffle=st.booleans(), seed=st.integers(0, 3))
def test_the_number_of_threads_does_not_change_the_order(folders, layout, threads, shuffle, seed):
    if not rows_of(layout):
        return
    root = folders(layout)
    inline, threaded = (open_stream(root, shuffle=shuffle, seed=seed, decode_threads=count) for count in (0, threads))

    assert [keys(inline), keys(inline)] == [keys(threaded), keys(threaded)]


@few_examples
@given(
    layout=layouts,
    taken=st.integers(0, 30),
    shuffle=st.booleans(),
    threads=st.tuples(st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 3])),
    world_size=st.integers(1, 3),
    is_prepared=st.booleans(),
)
def test_a_resumed_stream_goes_on_with_the_very_batches_of_an_unbroken_one(
    folders, layout, taken, shuffle, threads, world_size, is_prepared
):
    if rows_of(layout) < world_size:
        return
    root = folders(layout)
    for rank in range(world_size):
        changed = {"shuffle": shuffle, "rank": rank, "world_size": world_size}
        unbroken = open_stream(root, **changed)
        expected = keys(unbroken) + keys(unbroken)
        broken = open_stream(root, decode_threads=threads[0], **changed)
        broken.prepare = (lambda batch: lambda: None) if is_prepared else None  # then it holds a batch one ahead
        before = [b.extra["user_key"].tolist() for b in itertools.islice(endless(broken), min(taken, len(expected)))]

        resumed = open_stream(root, decode_threads=threads[1], **changed)
        resumed.load_state_dict(broken.state_dict())
        broken.close()
        after = list(itertools.chain.from_iterable(keys(resumed) for _ in range(2 - resumed.epoch)))

        assert before + after == expected


@few_examples
@given(layout=layouts, runs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 4)), max_size=3))
@example(layout=[[1]], runs=[(1, 1, 1), (2, 1, 0)])
def test_ranks_may_change_in_mid_epoch_and_every_row_still_comes_once(folders, layout, runs):
    left = rows_of(layout)
    if not left:
        return
    root = folders(layout)
    state, seen = None, []
    for world_size, batch_size, batches in [*runs, (1, 4, 1000)]:
        # An epoch whose last row is gone goes on as the next one, of all rows.
        if (left or rows_of(layout)) < world_size:
            continue
        states = []
        for rank in range(world_size):
            stream = open_stream(root, rank=rank, world_size=world_size, batch_size=batch_size)
            if state:
                stream.load_state_dict(state)
            for batch in itertools.islice(stream, batches):
                seen.extend(batch.extra["user_key"].tolist())
            states.append(stream.state_dict())
            stream.close()
        if states[0]["epoch"] == 1:
            break
        assert all(other == states[0] for other in states)
        state, left = states[0], rows_of(layout) - len(seen)

    assert sorted(seen) == list(range(rows_of(layout)))


def endless(stream):
    while True:
        yield from stream


def test_an_unshuffled_stream_keeps_the_order_of_the_days_and_of_numbered_parts(tmp_path):
    write_layout(tmp_path, [[2], [2], [2]])
    days = sorted((tmp_path / "split=train").iterdir())
    for number, day in zip((9, 10, 2), (days[0], days[1], days[2]), strict=True):
        (day / "part-0.parquet").rename(days[0] / f"part-{number}.parquet")

    assert np.concatenate(keys(open_stream(tmp_path, shuffle=False))).tolist() == [4, 5, 0, 1, 2, 3]


def test_epochs_and_seeds_differ_in_order_and_the_same_ones_agree(tmp_path):
    write_layout(tmp_path, [[30], [30]])
    one, other = open_stream(tmp_path, seed=1), open_stream(tmp_path, seed=2)

    first, second = keys(one), keys(one)

    assert one.epoch == 2
    assert first != second
    assert first != keys(other)
    assert first == keys(open_stream(tmp_path, seed=1))


def test_rows_leave_every_pool_and_every_epoch_in_an_order_of_its_own(tmp_path):
    write_layout(tmp_path, [[30], [30]])
    stream = open_stream(tmp_path, batch_size=30, shuffle_buffer_rows=30)

    places = [[key % 30 for key in pool] for _ in range(2) for pool in keys(stream)]

    assert all(sorted(pool) == list(range(30)) for pool in places)
    assert all(one != other for one, other in itertools.combinations(places, 2))


def test_small_day_files_are_mixed_over_the_days(tmp_path):
    # 20 days of 50 rows; a buffer of 500 rows gathers 10 days drawn at random. Read day by day, a batch would know 1.
    write_layout(tmp_path, [[50]] * 20)

    batches = keys(open_stream(tmp_path, batch_size=50, shuffle_buffer_rows=500))

    days_in_batch = [len({key // 50 for key in batch}) for batch in batches]
    assert min(days_in_batch) >= 8
    rows = np.concatenate(batches)
    # Spearman's correlation of 1000 independent ranks has standard deviation 0.03.
    correlation = np.corrcoef(np.arange(1000), rows)[0, 1]
    assert abs(correlation) < 0.35  # two pools of ten random days each: the days' own draw leaves this much


def test_skipping_to_the_middle_does_not_decode_the_pools_before_it(tmp_path, monkeypatch):
    write_layout(tmp_path, [[16]] * 10)
    begun = open_stream(tmp_path, decode_threads=0)
    expected = keys(open_stream(tmp_path))[36:]
    for _ in itertools.islice(begun, 36):
        pass
    read = []
    original = rows.read_row_group
    monkeypatch.setattr(rows, "read_row_group", lambda group, *how: read.append(group) or original(group, *how))
    resumed = open_stream(tmp_path, decode_threads=0)
    resumed.load_state_dict(begun.state_dict())

    assert keys(resumed) == expected
    assert len(read) == 1


def test_a_position_in_other_data_or_another_order_is_refused_by_name(tmp_path):
    state = open_stream(write_layout(tmp_path / "a", [[8]])).state_dict()

    with pytest.raises(DataError, match=r"saved with layout '[0-9a-f]{16}', but this stream has"):
        open_stream(write_layout(tmp_path / "b", [[4, 4]])).load_state_dict(state)
    with pytest.raises(DataError, match="saved with seed 7, but this stream has 8"):
        open_stream(tmp_path / "a", seed=8).load_state_dict(state)


def test_a_slow_consumer_holds_back_the_decoding_and_memory_does_not_grow_with_the_data(tmp_path):
    peaks = {}
    for days in (10, 40):
        stream = open_stream(write_layout(tmp_path / str(days), [[8]] * days), shuffle_buffer_rows=16)
        for batch in stream:
            time.sleep(0.001)
            assert len(batch) == 4
        # A pool of 16 rows in use, the next one and two row groups of 8 in the decoding threads, and two cut ones.
        assert stream.most_rows == 16 + 16 + 2 * 8 + 2 * 8
        assert stream.peak_rows <= stream.most_rows
        peaks[days] = stream.peak_rows

    assert peaks[40] == peaks[10] == 48


def test_each_batch_is_prepared_before_the_one_in_front_of_it_is_handed_out_and_counts_when_it_is(tmp_path):
    stream, done = open_stream(write_layout(tmp_path, [[10]]), shuffle=False), []

    def prepare(batch):
        first = batch.extra["user_key"][0].item()
        done.append(f"begin {first}")
        return lambda: done.append(f"end {first}")

    stream.prepare = prepare
    for batch in stream:
        done.append(f"step {batch.extra['user_key'][0].item()}")
        resumed = open_stream(tmp_path, shuffle=False)
        resumed.load_state_dict(stream.state_dict())
        assert list(itertools.chain.from_iterable(keys(resumed))) == list(range(batch.extra["user_key"][-1] + 1, 10))

    assert done == ["begin 0", "begin 4", "end 0", "step 0", "begin 8", "end 4", "step 4", "end 8", "step 8"]


def test_a_generator_closed_half_way_leaves_no_thread(tmp_path):
    write_layout(tmp_path, [[8]] * 20)
    stream = open_stream(tmp_path, decode_threads=4)

    batches = iter(stream)
    next(batches)
    assert background_threads()
    batches.close()
    assert not background_threads()

    for _ in stream:
        break
    assert not background_threads()

    held = iter(stream)
    next(held)
    stream.close()
    assert not background_threads()
    assert sum(map(len, keys(stream))) == 160 - 3 * 4


def background_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("recsys-")]


def test_waiting_for_data_is_measured_and_time_spent_in_the_step_is_not(tmp_path):
    stream = open_stream(write_layout(tmp_path, [[8]] * 4))
    batches = iter(stream)
    next(batches)
    waited = stream.wait_seconds
    assert waited > 0
    time.sleep(0.3)
    next(batches)
    assert stream.wait_seconds - waited < 0.15
    stream.close()


def test_the_weight_is_one_where_the_schema_declares_none(tmp_path):
    write_layout(tmp_path, [[3]])
    contract = replace(CONTRACT, schema=replace(CONTRACT.schema, weight=None))
    stream = BatchStream(
        tmp_path, "train", contract, batch_size=3, seed=0, shuffle=False, shuffle_buffer_rows=1, decode_threads=1,
        device=torch.device("cpu"),
    )  # fmt: skip

    assert next(iter(stream)).weight.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"shuffle_buffer_rows": 0}, "shuffle_buffer_rows is 0; expected 1 or more"),
        ({"decode_threads": -1}, "decode_threads is -1; expected 0 or more"),
        ({"seed": -3}, "seed is -3; expected 0 or more"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2 processes; expected 0 to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, changed, message):
    with pytest.raises(UsageError, match=message):
        open_stream(write_layout(tmp_path, [[8]]), **changed)


def test_fewer_rows_than_ranks_are_refused(tmp_path):
    with pytest.raises(DataError, match="2 rows cannot be shared among 3 ranks"):
        open_stream(write_layout(tmp_path, [[2]]), world_size=3)


def test_the_stream_reads_what_the_preparation_writes(tmp_path):
    contract = write_encoded_world(tmp_path / "world", rows_per_day=30, days={"train": 2, "test": 1})

    stream = BatchStream(
        tmp_path / "world", "train", contract, batch_size=25, seed=0, shuffle=True, shuffle_buffer_rows=50,
        decode_threads=2, extras=contract.extras, device=torch.device("cpu"),
    )  # fmt: skip
    batches = list(stream)

    assert [len(batch) for batch in batches] == [25, 25, 10]
    assert batches[0].sparse.keys() == [feature.name for feature in contract.schema.sparse]
    assert set(batches[0].extra) == {"user_key", "query", "is_new_to_user"}
    # Fitted on these very rows, so they have mean 0 and spread 1.
    assert torch.cat([batch.dense for batch in batches]).mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-5)
