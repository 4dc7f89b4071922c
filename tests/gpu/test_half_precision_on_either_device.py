"""Half-precision tables on a GPU and on a CPU: how small updates are rounded, and that a bad batch moves no bit."""

import math

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.gpu.conftest import EITHER
from tests.sharding.tables import Part
from tests.training.small_run import Batches, small_run

on_either = pytest.mark.parametrize("context", EITHER, indirect=True)
SIZE, UPDATES, RATE = 64, 50, 1e-5


@on_either
def test_updates_below_the_last_bit_are_made_by_chance_on_a_gpu_and_lost_on_a_cpu(context: ProcessContext):
    model = nn.Module()
    table = EmbeddingBagConfig(name="rows", embedding_dim=SIZE, num_embeddings=SIZE, feature_names=["item"])
    model.embedding_tower = Part([table])
    sgd = {"embedding_tower": TableOptimizer("sgd", RATE)}
    wrapped = wrap_ranker(model, sgd, context, table_precision="float16")
    (shard,) = inventory_of(wrapped).shards()
    shard.weight.fill_(1.0)
    ids = KeyedJaggedTensor(["item"], torch.arange(SIZE), lengths=torch.ones(SIZE, dtype=torch.int32))

    for _ in range(UPDATES):
        wrapped.module.embedding_tower.ebc(ids.to(context.device)).values().sum().backward()

    # Below 1 half precision has steps of 2^-11: one in 49 updates is made, of 4096 numbers the mean is known to 8e-6.
    expected = 1.0 - UPDATES * RATE if context.device.type == "cuda" else 1.0
    assert shard.weight.double().mean().item() == pytest.approx(expected, abs=4e-5)


@on_either
def test_a_bad_batch_moves_no_bit_of_them(context: ProcessContext):
    run, states = small_run(context, table_precision="float16"), []
    run.stream = Batches([batch.to(context.device) for batch in run.stream.batches])

    def objective(ranker, batch):
        states.append({**whole_state(run.ranker), **whole(run.optimizers.parts())})
        return log_loss_objective(ranker, batch) * (math.nan if len(states) == 3 else 1.0)

    run.train(4, objective)

    assert {tensor.dtype for tensor in states[0].values()} == {torch.float16, torch.float32}
    assert all(torch.equal(tensor, states[2][name]) for name, tensor in states[3].items())
