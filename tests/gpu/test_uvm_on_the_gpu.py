"""Tables in the host's memory, with and without a cache on the GPU, learn, are proven, saved and loaded as others."""

from collections.abc import Mapping

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.errors import TrainingError
from recsys.monitoring.frozen_proof import FrozenProof
from recsys.sharding import state_copy
from recsys.sharding.inventory import inventory_of
from recsys.sharding.sharding_plan import TableMemory
from recsys.sharding.state_digests import digests_of, whole_digests
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import Part
from tests.sharding.whole_loads import load_whole_state, table_optimizer_state
from tests.small_model import JOINED_WIDTH, small_ranker
from tests.training.saved_runs import resume_run, save_run
from tests.training.small_run import Batches, SmallRun, small_run

pytestmark = pytest.mark.gpu
MEMORIES = [TableMemory("uvm"), TableMemory("uvm_caching", cache_share=0.01)]
TABLES = ("embedding_tower", "interaction_network", "head")


def run_in(memory: TableMemory | None, context, mode: str = "end_to_end") -> SmallRun:
    chosen: Mapping[str, TableMemory] = dict.fromkeys(TABLES, memory) if memory else {}
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)))
    run = small_run(context, mode, ranker=ranker, memory=chosen)
    run.stream = Batches([batch.to(context.device) for batch in run.stream.batches])
    return run


def everything(run: SmallRun) -> dict[str, Tensor]:
    return {**whole_state(run.ranker), **whole(run.optimizers.parts())}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


def large_table(memory: TableMemory | None, context) -> nn.Module:
    """A table of which the least cache, one set of 32 rows, holds a small part."""
    torch.manual_seed(0)
    table = EmbeddingBagConfig(num_embeddings=2000, embedding_dim=8, name="item_rows", feature_names=["item"])
    parts = nn.ModuleDict({"tower": Part([table])})
    rule = TableOptimizer("rowwise_adagrad", 0.1)
    wrapped = wrap_ranker(parts, {"tower": rule}, context, memory={"tower": memory} if memory else {})
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        ids, ones = torch.randint(2000, (256,), generator=draw), torch.ones(256, dtype=torch.int32)
        keyed = KeyedJaggedTensor(["item"], ids, lengths=ones).to(context.device)
        (wrapped.module["tower"](keyed) - 1).square().mean().backward()
    return wrapped


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.kernel)
def test_twenty_steps_are_those_of_a_table_in_the_gpus_own_memory(context, memory):
    fused, elsewhere = large_table(None, context), large_table(memory, context)

    assert_same(
        {**whole_state(elsewhere), **table_optimizer_state(elsewhere)},
        {**whole_state(fused), **table_optimizer_state(fused)},
    )
    (kernel,) = inventory_of(elsewhere).fused
    location = EmbeddingLocation.MANAGED if memory.kernel == "uvm" else EmbeddingLocation.MANAGED_CACHING
    assert kernel.module.embedding_specs[0][2] == location


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.kernel)
def test_digests_are_those_of_the_same_numbers_in_any_memory(context, memory):
    elsewhere, fused = large_table(memory, context), large_table(None, context)

    load_whole_state(fused, whole_state(elsewhere))

    assert whole_digests(fused) == whole_digests(elsewhere) == digests_of(whole_state(elsewhere))


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.kernel)
def test_a_loss_goes_down_as_in_the_gpus_own_memory(context, memory):
    fused, elsewhere = run_in(None, context), run_in(memory, context)

    losses = [[report.loss for report in run.train(20)] for run in (elsewhere, fused)]

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.kernel)
def test_a_resumed_run_goes_on_as_the_unbroken_one(context, memory, tmp_path):
    unbroken, first, second = (run_in(memory, context) for _ in range(3))
    unbroken.train(12)
    first.train(5)
    save_run(first, tmp_path)
    second.train(3)  # its cache holds rows that the load must replace

    resume_run(second, tmp_path)
    assert all(torch.equal(tensor, everything(first)[name]) for name, tensor in everything(second).items())
    second.train(12)

    assert_same(everything(second), everything(unbroken))


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["pinned", "on_the_gpu"])
@pytest.mark.parametrize("memory", [None, *MEMORIES], ids=lambda memory: memory.kernel if memory else "fused")
def test_best_weights_come_back_into_what_the_next_step_reads(context, memory, share, monkeypatch):
    monkeypatch.setattr(state_copy, "_SHARE_OF_FREE_MEMORY", share)
    run = run_in(memory, context)
    run.train(4)
    run.best.keep()
    kept, batch = whole_state(run.ranker), run.stream.batches[0]
    with torch.no_grad():
        logits = run.ranker(batch)
    run.train(10)

    run.best.restore()

    assert all(torch.equal(tensor, kept[name]) for name, tensor in whole_state(run.ranker).items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in whole(run.best.parts()).items())
    with torch.no_grad():
        torch.testing.assert_close(run.ranker(batch), logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.kernel)
def test_a_frozen_tower_is_proven_unchanged_and_a_write_to_it_is_found(context, memory):
    run = run_in(memory, context, "frozen_tower")
    proof = FrozenProof(run.ranker, run.optimizers.local_state)

    run.train(6)

    assert proof.record()["embedding_tower"]["is_unchanged"]
    state = whole_state(run.ranker)
    table = next(name for name in state if name.startswith("embedding_tower.") and "embedding_bags" in name)
    load_whole_state(run.ranker, state | {table: state[table] + 1e-3})
    with pytest.raises(TrainingError, match="changed"):
        proof.record()
