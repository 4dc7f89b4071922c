"""With a frozen tower nothing of its backward pass runs, and no optimizer state is held for it.

Every claim is shown beside its counterpart: the same count in an end-to-end run, which is not zero.
"""

from collections import Counter
from typing import Any

import pytest
import torch

from recsys.composition.conditional import SegmentRoutedComposition
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.sequential import SequentialComposition
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import whole
from recsys.towers.tower_spec import TowerSpec
from recsys.training.cache import TowerCache
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.small_model import FIELD_WIDTH, JOINED_WIDTH, NETWORK_WIDTH, ROWS, batch_of, small_ranker, small_schema
from tests.training.small_run import SmallRun, gated_ranker, small_run

TOWER = "embedding_tower"
ROUTES = [["interaction_network"], ["embedding_tower"], ["embedding_tower", "interaction_network"]]
COMPOSITIONS = {
    "gated": gated_ranker,
    "parallel": lambda: small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH))),
    "routed": lambda: small_ranker(lambda p: SegmentRoutedComposition(p, ROUTES, None)),
    "sequential": lambda: small_ranker(
        lambda p: SequentialComposition(p.tower.in_features, FIELD_WIDTH, NETWORK_WIDTH), has_tower_field=True
    ),
}


def nodes_behind(loss: torch.Tensor) -> list[Any]:
    """Every step of the loss's backward pass."""
    seen, pending = {}, [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and id(node) not in seen:
            seen[id(node)] = node  # kept, so that no other node takes its id
            pending += [following for following, _ in node.next_functions]
    return list(seen.values())


def backward_of_the_tower(run: SmallRun) -> Counter:
    """What one backward pass does for the tower: of its layers and tables, and calls of its modules."""
    tower, calls = run.ranker.module.embedding_tower, Counter()
    parameters = {id(parameter) for parameter in inventory_of(tower).dense_parameters().values()}
    kernels = [kernel.module for kernel in inventory_of(tower).fused]
    hooks = [
        module.register_full_backward_hook(lambda *_: calls.update(["module"]))
        for module in tower.modules()
        if not list(module.children())
    ]
    tables = []
    hooks += [kernel.register_forward_hook(lambda _, __, out: tables.append(out)) for kernel in kernels]
    loss = log_loss_objective(run.ranker.module, batch_of(ROWS))
    calls["layer gradients"] = sum(id(getattr(node, "variable", None)) in parameters for node in nodes_behind(loss))
    calls["table gradients"] = sum(out.requires_grad for out in tables)
    calls["table look-ups"] = len(tables)
    loss.backward()
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize("make", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_nothing_of_a_frozen_towers_backward_pass_runs(context, make):
    learning = backward_of_the_tower(small_run(context, ranker=make()))
    frozen = backward_of_the_tower(small_run(context, "frozen_tower", ranker=make()))

    assert all(learning[count] > 0 for count in ("module", "layer gradients", "table gradients"))
    assert {count: frozen[count] for count in learning} == dict.fromkeys(learning, 0) | {
        "table look-ups": learning["table look-ups"]
    }


def test_with_a_warm_cache_its_tables_are_not_even_looked_up(context):
    # Wider than the small model's: a cache steps aside where narrow layers make a row's last bits depend on its batch.
    spec = TowerSpec.two_tower(small_schema(), width=16, table_dimension=4, hidden_widths=[16])
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)), spec=spec)
    run = small_run(context, "frozen_tower", ranker=ranker)
    cache = TowerCache(run.ranker, 1, context)
    run.ranker(batch_of(ROWS * 20))

    assert cache.record()["is_in_use"]
    assert +backward_of_the_tower(run) == Counter()


def test_the_graph_of_a_frozen_step_is_the_smaller_by_the_towers_part(context):
    sizes = {}
    for mode in ("end_to_end", "frozen_tower"):
        sizes[mode] = len(nodes_behind(log_loss_objective(small_run(context, mode).ranker.module, batch_of(ROWS))))

    assert sizes["frozen_tower"] < 0.8 * sizes["end_to_end"]


def state_held_for_the_tower(run: SmallRun) -> dict[str, int]:
    """Numbers kept by any optimizer for the tower, fused kernels included."""
    run.train(2)
    shards = inventory_of(run.ranker.module.embedding_tower).shards()
    kernels = inventory_of(run.ranker.module.embedding_tower).fused
    return {
        "dense": sum(state.numel() for name, state in whole(run.optimizers.parts()).items() if name.startswith(TOWER)),
        "tables": sum(shard.state.numel() for shard in shards if shard.state is not None),
        "in the kernels": sum(each.numel() for kernel in kernels for each in kernel_state(kernel.module)),
    }


def kernel_state(kernel: torch.nn.Module) -> list[torch.Tensor]:
    """The accumulators that fbgemm allocated, wherever it keeps them."""
    return [state for states in kernel.split_optimizer_states() or [] for state in states]


def test_no_optimizer_state_is_held_for_a_frozen_tower(context):
    learning = state_held_for_the_tower(small_run(context))
    frozen = state_held_for_the_tower(small_run(context, "frozen_tower"))

    assert all(numbers > 0 for numbers in learning.values())
    assert frozen == dict.fromkeys(learning, 0)


def test_the_kernel_that_must_stay_attached_has_no_state_and_no_rate(context):
    run = small_run(context, "frozen_tower")

    kernels = inventory_of(run.ranker.module.embedding_tower).fused
    assert {(str(kernel.optimizer), kernel.learning_rate) for kernel in kernels} == {("exact_sgd", 0.0)}
