"""Background threads leave the processor's cores to the training step."""

import threading

import pytest
import torch

from recsys.streaming.pools import background, prefetched


@pytest.fixture
def several_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_torch_uses_one_thread_in_the_background_and_as_many_as_before_in_front(several_threads):
    ahead = prefetched((torch.get_num_threads() for _ in range(2)), depth=1)
    assert list(ahead) == [1, 1]
    with background(2, "recsys-test") as executor:
        assert [executor.submit(torch.get_num_threads).result() for _ in range(4)] == [1] * 4
    assert torch.get_num_threads() == several_threads


def test_without_threads_of_its_own_the_decoding_has_the_caller_s(several_threads):
    with background(0, "recsys-test") as executor:
        assert executor.submit(torch.get_num_threads).result() == several_threads


def test_every_background_thread_is_on_the_gpu_of_the_thread_that_wants_its_work(monkeypatch):
    current = threading.local()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(current, "gpu", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: setattr(current, "gpu", gpu))
    torch.cuda.set_device(2)

    def gpus():
        yield torch.cuda.current_device()
        with background(1, "recsys-test") as executor:
            yield executor.submit(torch.cuda.current_device).result()

    assert list(prefetched(gpus(), depth=1)) == [2, 2]


def test_where_no_gpu_computes_no_background_thread_asks_for_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: pytest.fail("asked"))
    with background(1, "recsys-test") as executor:
        assert executor.submit(lambda: "done").result() == "done"
