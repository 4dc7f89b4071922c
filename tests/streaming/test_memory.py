"""The memory of batches is lent again, and never while somebody can still see what is in it."""

import gc
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
import torch

from recsys.errors import DataError
from recsys.streaming.memory import ReusedMemory
from tests.streaming.rows import open_stream, write_column, write_layout
from tests.streaming.test_loader import background_threads


def address(memory, rows, role="label"):
    return memory.empty(role, [rows], torch.float32).data_ptr()


def test_a_block_is_used_again_once_its_tensor_is_gone():
    memory = ReusedMemory(most_blocks=4)

    assert address(memory, 100) == address(memory, 100) == address(memory, 40)


@pytest.mark.parametrize(
    "seen_as",
    [
        lambda tensor: tensor[3:5],
        lambda tensor: tensor.view(2, 50).t(),
        lambda tensor: tensor.numpy()[::2],
        lambda tensor: tensor.detach(),
    ],
    ids=["slice", "transposed", "numpy", "detached"],
)
def test_a_block_stays_with_whoever_still_sees_a_part_of_it(seen_as):
    memory = ReusedMemory(most_blocks=4)
    tensor = memory.empty("label", [100], torch.float32)
    tensor.fill_(7)
    part = seen_as(tensor)
    del tensor
    gc.collect()

    memory.empty("label", [100], torch.float32).fill_(0)

    assert (part == 7).all()


def test_a_block_is_lent_to_one_of_many_threads_at_a_time():
    memory = ReusedMemory(most_blocks=3)

    def keeps_its_value(number):
        tensor = memory.empty("label", [50], torch.float32).fill_(number)
        time.sleep(1e-4)
        return bool((tensor == number).all())

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(keeps_its_value, range(200)))


def test_roles_do_not_share_blocks_and_a_larger_tensor_gets_a_larger_one():
    memory = ReusedMemory(most_blocks=4)
    small = address(memory, 100)

    assert address(memory, 100, role="weight") != small
    large = memory.empty("label", [10_000], torch.float32)
    large.fill_(1)
    assert large.shape == (10_000,)


def test_no_more_blocks_are_kept_than_agreed():
    memory = ReusedMemory(most_blocks=2)
    held = [memory.empty("label", [100], torch.float32) for _ in range(5)]
    addresses = {tensor.data_ptr() for tensor in held}
    assert len(addresses) == 5
    del held

    kept = [memory.empty("label", [100], torch.float32) for _ in range(2)]

    assert {tensor.data_ptr() for tensor in kept} <= addresses
    assert len(memory._blocks["label"]) == 2


@pytest.mark.parametrize("decode_threads", [0, 2])
def test_batches_of_an_epoch_may_all_be_kept(tmp_path, decode_threads):
    write_layout(tmp_path, [[40], [35]])

    kept = list(open_stream(tmp_path, decode_threads=decode_threads, shuffle=False))

    for number, batch in enumerate(kept):
        rows = range(4 * number, min(75, 4 * number + 4))
        assert batch.extra["user_key"].tolist() == list(rows)
        assert batch.dense.tolist() == [[row * 0.5, -row] for row in rows]
        assert batch.sparse["item_id"].values().tolist() == [row % 8 for row in rows]
        assert batch.sparse["recent"].lengths().tolist() == [row % 4 for row in rows]
        assert batch.label.tolist() == [row % 2 for row in rows]


def test_a_step_that_overwrites_its_batch_spoils_no_other(tmp_path):
    write_layout(tmp_path, [[60]])
    expected = [batch.sparse.lengths().tolist() for batch in open_stream(tmp_path, shuffle=False)]

    found = []
    for batch in open_stream(tmp_path, shuffle=False):
        found.append(batch.sparse.lengths().tolist())
        for tensor in (batch.sparse.lengths(), batch.sparse.values(), batch.weight, batch.dense):
            tensor.zero_()

    assert found == expected


def test_a_stream_of_small_batches_goes_round_in_a_few_blocks(tmp_path):
    write_layout(tmp_path, [[200]])

    addresses = {batch.label.data_ptr() for batch in open_stream(tmp_path, decode_threads=2)}

    assert len(addresses) <= 8


def test_an_error_in_a_decoding_thread_leaves_no_thread_behind(tmp_path):
    write_layout(tmp_path, [[8]] * 6)
    write_column(tmp_path, {"label": pa.array([0.5] * 6, pa.float32())})

    with pytest.raises(DataError, match=r"column `label` holds 0\.5"):
        list(open_stream(tmp_path, decode_threads=4))

    assert not background_threads()


def test_an_error_of_the_step_leaves_no_thread_behind(tmp_path):
    stream = open_stream(write_layout(tmp_path, [[8]] * 20), decode_threads=4)

    def train():
        for batch in stream:
            raise ZeroDivisionError(len(batch))

    with pytest.raises(ZeroDivisionError):
        train()
    stream.close()

    assert not background_threads()


def test_a_command_lets_arrow_keep_its_memory_and_the_library_leaves_the_environment_alone():
    shown = (
        "import os, sys; before = dict(os.environ); import recsys; assert dict(os.environ) == before\n"
        "from pipelines.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(os.environ['MIMALLOC_PURGE_DELAY'])"
    )
    printed = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True).stdout

    assert printed.splitlines()[-1] == "-1"
