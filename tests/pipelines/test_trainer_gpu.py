"""`trainer=gpu`: what it sets, what it refuses, and how batch size and threads follow from the machine."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pynvml import NVMLError_Uninitialized

from pipelines.cli import main
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import UsageError
from recsys.monitoring import device_memory
from recsys.monitoring.device_memory import memory_bytes
from recsys.progress import silent
from recsys.run import batch_size, cached_tower, prepare, result_keys
from recsys.run.assemble import with_ranker_budget
from recsys.run.batch_size import LARGEST, SMALLEST, largest_batch
from recsys.run.result_keys import settings_of
from recsys.run.streams import decode_threads
from recsys.sharding.whole_state import whole_state
from recsys.training.cache import TowerCache
from tests.training.small_run import Batches
from tests.training.test_cache import BATCHES, frozen_run

GIGABYTE = 2**30
IF_FASTER = compose_config(["training_mode=frozen_tower", "training.tower_cache=if_faster", "training.epochs=1"])


@pytest.fixture(scope="module")
def world(small_world: list[str]) -> tuple[RunConfig, EncodedDataset]:
    """A configuration whose batch size is left to the machine, and its data."""
    wide = ["network.hidden_widths=[1024,1024]", "training.batch_size=null", "training.largest_batch=null"]
    config = compose_config([*small_world, *wide])
    return config, prepare.run(config, silent)


@pytest.fixture
def with_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the machine have so many bytes."""

    def set_memory(size: float) -> None:
        for module in (batch_size, result_keys):
            monkeypatch.setattr(module, "memory_bytes", lambda wished: int(size))

    return set_memory


def test_on_a_machine_without_a_gpu_it_is_refused_with_the_reason(capsys, small_world: list[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    assert main(["train", "trainer=gpu", *(word for word in small_world if not word.startswith("runtime.device"))]) == 2

    message = capsys.readouterr().err
    assert "`runtime.device` is cuda, but torch" in message
    assert "leave out trainer=gpu" in message


def test_a_value_of_ones_own_goes_before_the_trainers():
    config = compose_config(["trainer=gpu", "training.precision=float32", "training.decode_threads=3"])

    assert (config.training.precision, config.training.matmul, config.training.decode_threads) == ("float32", "tf32", 3)
    assert compose_config(["trainer=gpu", "experiment=smoke"]).training.batch_size == 256


def test_the_largest_batch_is_a_power_of_two_that_memory_holds(world, with_memory):
    found = []
    for size in (0.1, 0.5, 1, 2, 4, 1000):
        with_memory(size * GIGABYTE)
        found.append(largest_batch(*world))

    assert found == sorted(found)
    assert (found[0], found[-1]) == (SMALLEST, LARGEST)
    assert set(found) == {8192, 16384, 32768, 65536}
    with_memory(GIGABYTE)
    assert largest_batch(*world) == found[2]  # the same once more


def test_rows_that_leave_more_behind_come_in_smaller_batches(world, with_memory):
    config, encoded = world
    with_memory(GIGABYTE)
    half = replace(config, training=replace(config.training, precision="bfloat16"))
    narrow = replace(config, network=replace(config.network, hidden_widths=(16,)))

    single = largest_batch(config, encoded)

    assert single < largest_batch(half, encoded)
    assert single < largest_batch(narrow, encoded)


def test_choosing_a_batch_draws_no_random_number(world, with_memory):
    with_memory(GIGABYTE)
    before = torch.get_rng_state()

    largest_batch(*world)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_given_batch_is_taken_and_rows_still_bound_the_chosen_one(world, with_memory):
    config, encoded = world
    with_memory(1000 * GIGABYTE)
    given = replace(config, training=replace(config.training, batch_size=777))

    assert with_ranker_budget(given, encoded).training.batch_size == 777
    # Some 2000 rows: 64 steps an epoch would be fewer than the least.
    assert with_ranker_budget(config, encoded).training.batch_size == 128


def test_memory_counts_in_a_results_key_where_the_batch_follows_from_it(world, with_memory):
    config, _ = world
    keys = []
    for size in (1, 2):
        with_memory(size * GIGABYTE)
        keys.append(settings_of(config)["training"]["largest_batch"])

    assert keys == ["in 1073741824 bytes", "in 2147483648 bytes"]
    given = replace(config, training=replace(config.training, batch_size=128))
    assert settings_of(given)["training"]["largest_batch"] is None


@pytest.mark.parametrize(
    ("configured", "cores", "processes", "threads"),
    [("3", 16, "1", 3), ("null", 16, "1", 8), ("null", 16, "4", 3), ("null", 2, "1", 1), ("null", 1, "1", 1)],
)
def test_rows_are_decoded_by_the_cores_that_are_left(monkeypatch, configured, cores, processes, threads):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)

    config = compose_config([f"training.decode_threads={configured}", f"runtime.threads={cores}"])

    assert decode_threads(config) == threads


def test_a_gpus_memory_is_the_smallest_ones(monkeypatch):
    gpus = [SimpleNamespace(total=80 * GIGABYTE), SimpleNamespace(total=40 * GIGABYTE)]
    monkeypatch.setattr(device_memory, "device_kind", lambda wished: "cuda")
    monkeypatch.setattr(device_memory.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(device_memory.pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(device_memory.pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(device_memory.pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: gpus[handle])

    assert memory_bytes("cuda") == 40 * GIGABYTE


def test_a_driver_that_does_not_say_its_memory_is_named_with_a_way_out(monkeypatch):
    def fail() -> None:
        raise NVMLError_Uninitialized

    monkeypatch.setattr(device_memory, "device_kind", lambda wished: "cuda")
    monkeypatch.setattr(device_memory.pynvml, "nvmlInit", fail)

    with pytest.raises(UsageError, match=r"NVML says Uninitialized. Set training.largest_batch"):
        memory_bytes("cuda")


def test_a_cpus_memory_is_the_machines():
    assert memory_bytes("cpu") > GIGABYTE / 4


@pytest.mark.parametrize("is_faster", [True, False])
def test_a_cache_is_used_where_it_was_measured_to_be_faster(context, monkeypatch, is_faster):
    run, attached = frozen_run(context), {}
    monkeypatch.setattr(cached_tower, "_first_batches", lambda *_: BATCHES)
    monkeypatch.setattr(cached_tower, "measure_cache", lambda *_: {"is_faster": is_faster})
    encoded = SimpleNamespace(rows=lambda split: 1000)

    with cached_tower.cached_tower(run.ranker, IF_FASTER, encoded, context, attached.__setitem__):  # type: ignore[arg-type]
        is_used = run.ranker.module.embedding_tower.cache is not None
        run.train(2)

    assert is_used == is_faster
    record = json.loads(attached["tower_cache.json"])
    assert (record["is_in_use"], record["measured"]) == (is_faster, {"is_faster": is_faster})
    assert run.ranker.module.embedding_tower.cache is None


def test_measuring_a_cache_changes_no_weight_and_draws_no_random_number(context):
    run = frozen_run(context)
    before, random = whole_state(run.ranker), torch.get_rng_state()
    cache = TowerCache(run.ranker, 16, context)

    measured = cached_tower.measure_cache(run.ranker, cache, BATCHES, IF_FASTER.training, context)
    cache.close()

    assert all(torch.equal(tensor, before[name]) for name, tensor in whole_state(run.ranker).items())
    assert torch.equal(torch.get_rng_state(), random)
    assert min(value for name, value in measured.items() if name.endswith("milliseconds")) > 0
    # One epoch: what is kept is never asked for again.
    assert measured["is_faster"] == (measured["filling_milliseconds"] < measured["tower_milliseconds"])


def test_of_a_run_with_one_batch_that_one_is_measured(context, monkeypatch):
    stream = Batches([BATCHES[0]])
    monkeypatch.setattr(stream, "close", lambda: None, raising=False)
    monkeypatch.setattr(cached_tower, "ranker_stream", lambda *_: stream)

    assert len(cached_tower._first_batches(IF_FASTER, None, context)) == 2  # type: ignore[arg-type]
