"""Wrapping a ranker in TorchRec's engine, one process included.

Every collection of tables is sharded by an explicit plan and updated by a fused kernel inside the backward pass;
everything else is replicated. TorchRec's own wrapper for the replicated part is DDP, which stops at a parameter that a
batch did not reach (a frozen tower, an absent segment's expert). Here the dense gradients are averaged by one flat
all-reduce that knows who had a gradient: a parameter that no process reached keeps none, and so is unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.errors import UsageError
from recsys.sharding.inventory import WrappedRanker, lies_in_staying, take_inventory
from recsys.sharding.one_process import leave_out_exchange
from recsys.sharding.plan_rules import Planning, require_whole_rows
from recsys.sharding.processes import ProcessContext
from recsys.sharding.replicated import ReplicatedTables
from recsys.sharding.sharding_plan import TableMemory, planned_sharding, sharding_plan
from recsys.sharding.torchrec_planner import TABLE_TYPES
from recsys.sharding.weighted_mean import DividedWeights, as_weighted_sums
from recsys.sharding.whole_state import load_table_weights

# The three update rules that fbgemm's CPU kernels have; they ignore weight decay and momentum, so neither is offered.
_UPDATE_RULES: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}
RULE_NAMES = {"rowwise_adagrad": "exact_row_wise_adagrad", "adagrad": "exact_adagrad", "sgd": "exact_sgd"}
"""What the fused kernels call these rules."""
_SHARDINGS = ("table_wise", "row_wise", "column_wise", "data_parallel")


@dataclass(frozen=True)
class TableOptimizer:
    """How a part's tables learn.

    Attributes:
        name: "rowwise_adagrad" (one accumulator per row), "adagrad" (one per element) or "sgd" (none).
        epsilon: added to the root of the accumulator; SGD has no use for it.
    """

    name: str
    learning_rate: float
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if self.name not in _UPDATE_RULES:
            raise UsageError(
                f"Tables cannot learn by `{self.name}`; the fused kernels have {', '.join(_UPDATE_RULES)}."
            )


_KERNELS = {
    # The default check serves row 0 for an id that is out of range, and rewrites the batch.
    "bounds_check_mode": BoundsCheckMode.FATAL,
    # Of half-precision weights, on a GPU: an update below the last bit is made as often as it is large, where rounding
    # to nearest would lose it every time. A CPU's kernels round to nearest.
    "stochastic_rounding": True,
}

# A kernel cannot be without an update rule: with none attached it takes fbgemm's default, SGD at rate 0.01. This one
# keeps no state and changes nothing; that no gradient reaches it either is the frozen part's own doing.
_FROZEN = TableOptimizer("sgd", learning_rate=0.0)


def wrap_ranker(
    ranker: nn.Module,
    table_optimizers: Mapping[str, TableOptimizer | None],
    context: ProcessContext,
    sharding: Mapping[str, str] | None = None,
    table_precision: str = "float32",
    memory: Mapping[str, TableMemory] | None = None,
    planning: Planning | None = None,
) -> WrappedRanker:
    """Shard the ranker's tables, replicate the rest, and keep every weight as it was, or in half as many bits.

    Args:
        ranker: changed in place; afterwards it is the returned wrapper's `.module`, with the same named children.
        table_optimizers: by name of the part (a child of `ranker`); None for a frozen part. Every part that
            has tables must be named.
        sharding: by name of the part: "table_wise" (the default), "row_wise", "column_wise", or "data_parallel" for
            tables that every process holds whole and that learn through a `TableGate` alone (`replicated.py`).
        table_precision: of the sharded tables that learn, "float32" or "float16"; what is looked up, its gradient and
            the accumulators are float32. A frozen table keeps every bit that it came with.
        memory: by name of the part, in which memory its sharded tables lie; a GPU's own where it has no entry.
        planning: TorchRec's planner decides on both, in place of `sharding` and `memory`; every process passes one.

    Raises:
        UsageError: a part with tables has no entry, a table's width is no multiple of 4, row-wise Adagrad meets
            column-wise sharding (see `require_whole_rows`), or, planned, the tables do not fit.
    """
    kinds = planning.rules.replicated if planning else sharding or {}
    collections = _collections_by_part(ranker)
    means_of: dict[str, frozenset[str]] = {}  # by path, the features whose weighted ids are averaged
    for path, collection in collections.items():
        optimizer = _FROZEN if lies_in_staying(ranker, path) else _optimizer_of(path, table_optimizers)
        kind = kinds.get(path.split(".")[0], "table_wise")
        _check_tables(path, collection, optimizer, kind)
        means_of[path] = as_weighted_sums(collection)
        if kind == "data_parallel":
            _replicate(ranker, path, collection, optimizer, context)
        else:
            _attach(collection, optimizer, "float32" if optimizer is _FROZEN else table_precision)
    learning = {part: rule.name if rule else None for part, rule in table_optimizers.items()}
    planned = planning.plan(ranker, learning, table_precision, context) if planning else None
    left = _collections_by_part(ranker)
    plan = planned_sharding(left, planned, context) if planned else sharding_plan(left, kinds, memory or {}, context)
    # TorchRec fills sharded tables with fresh random numbers unless they came from another device than the CPU; those
    # that it replaces are kept until their rows are where they belong, and not copied.
    weights = {shard.table: shard.weight for shard in take_inventory(ranker).shards()}
    wrapped = WrappedRanker(
        ranker,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=context.device,
        plan=plan,
        sharders=[EmbeddingBagCollectionSharder(fused_params=dict(_KERNELS))],
        data_parallel_wrapper=_Replicated(),
    )
    wrapped.inventory, wrapped.table_plan = take_inventory(wrapped.module), planned
    load_table_weights(wrapped, weights)
    for path, collection in collections.items():
        _take_after(wrapped.module.get_submodule(path), collection, means_of[path], context)
    _broadcast_replicated(wrapped, context)
    return wrapped


@dataclass(frozen=True)
class Agreed:
    """What the processes know together after the exchange of a step.

    Attributes:
        faults: (F,) bool, on the device, of each whether it is in any process.
        sums: over the processes, of what their hosts know.
    """

    faults: torch.Tensor
    sums: list[float]


def average_dense_gradients(
    parameters: Sequence[nn.Parameter],
    context: ProcessContext,
    faults: torch.Tensor | None = None,
    known: Sequence[float] = (),
) -> Agreed:
    """Replace each gradient, of any shape, by its mean over the processes, and exchange some facts along with it.

    A parameter that some process did not reach counts as a gradient of zero there. One that no process reached keeps
    None, so that no optimizer touches it. Every process passes the same parameters in the same order.

    Args:
        faults: (F,) bool, on the device; () where none are given.
        known: whole numbers that the host knows, in all below 2 ** 24.
    """
    own = torch.zeros(0, dtype=torch.bool, device=context.device) if faults is None else faults
    if context.world_size == 1:
        return Agreed(own, list(known))
    # One exchange for everything that is on the device, and one for what the host knows, as each has a latency of its
    # own; on a CPU they are the same. On a GPU the second goes by gloo meanwhile, and neither waits for the device.
    on_host = torch.tensor([float(parameter.grad is not None) for parameter in parameters] + [*map(float, known)])
    parts = [*(_flat_gradient(parameter) for parameter in parameters), own.float()]
    if context.device.type == "cpu":
        flat = torch.cat([*parts, on_host])
        dist.all_reduce(flat)
        on_host = flat[len(flat) - len(on_host) :]
    else:
        pending = dist.all_reduce(on_host, async_op=True)
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        pending.wait()
    counts = on_host.tolist()
    sizes = [parameter.numel() for parameter in parameters]
    *means, found = flat[: sum(sizes) + len(own)].split([*sizes, len(own)])
    for parameter, mean, count in zip(parameters, means, counts, strict=False):
        parameter.grad = (mean / context.world_size).view_as(parameter) if count else None
    return Agreed(found > 0, counts[len(parameters) :])


def _take_after(
    sharded: nn.Module, collection: EmbeddingBagCollection, means: frozenset[str], context: ProcessContext
) -> None:
    """Put the sharded collection, a new module, into the mode of the one whose place it took; freeze it likewise.

    The other one's memory is given back, but where its tables are replicated and so are the very same.

    Args:
        means: the features whose weighted ids it averages.
    """
    if isinstance(sharded, ShardedEmbeddingBagCollection):
        _free(collection)
    sharded.train(collection.training)
    if hasattr(collection, "is_frozen"):
        setattr(sharded, "is_frozen", collection.is_frozen)  # noqa: B010 - no attribute of every module
    if means:
        sharded.register_forward_pre_hook(DividedWeights(means))
    if context.world_size == 1:
        leave_out_exchange(sharded)


def _free(collection: EmbeddingBagCollection) -> None:
    """Give back the memory of the whole tables, and of accumulators that were made of them."""
    for parameter in collection.parameters():
        # torch itself never forgets a parameter that it gave an update rule in the backward pass.
        parameter.data = parameter.data.new_empty(0)
        vars(parameter).pop("_in_backward_optimizers", None)


class _Replicated(DataParallelWrapper):
    """Puts the dense part on the process's device and leaves averaging to `average_dense_gradients`."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        dmp.module.to(device)


def _replicate(
    ranker: nn.Module,
    path: str,
    collection: EmbeddingBagCollection,
    optimizer: TableOptimizer,
    context: ProcessContext,
) -> None:
    """Put replicated tables with the same parameters in the collection's place."""
    collection.requires_grad_(True)
    rule = _UPDATE_RULES[optimizer.name](collection.to(context.device).parameters(), **_arguments(optimizer))
    ranker.set_submodule(path, ReplicatedTables(collection, rule, RULE_NAMES[optimizer.name]))


def _collections_by_part(ranker: nn.Module) -> dict[str, EmbeddingBagCollection]:
    return {path: child for path, child in ranker.named_modules() if isinstance(child, EmbeddingBagCollection)}


def _optimizer_of(path: str, table_optimizers: Mapping[str, TableOptimizer | None]) -> TableOptimizer:
    part = path.split(".")[0]
    if part not in table_optimizers:
        raise UsageError(
            f"`{path}` has tables, but no table optimizer is given for `{part}` (given: "
            f"{', '.join(table_optimizers) or 'none'}). Give it one, or None if it is frozen."
        )
    return table_optimizers[part] or _FROZEN


def _check_tables(path: str, collection: EmbeddingBagCollection, optimizer: TableOptimizer, sharding: str) -> None:
    if sharding not in _SHARDINGS:
        raise UsageError(f"`{path}` cannot be sharded `{sharding}`; expected one of {', '.join(_SHARDINGS)}.")
    require_whole_rows(f"`{path}`", (sharding,), optimizer.name)
    for config in collection.embedding_bag_configs():
        if config.embedding_dim % 4:
            raise UsageError(
                f"Table `{config.name}` of `{path}` is {config.embedding_dim} wide; the fused kernels need a multiple "
                f"of 4, such as {-(-config.embedding_dim // 4) * 4}."
            )


def _attach(collection: EmbeddingBagCollection, optimizer: TableOptimizer, precision: str) -> None:
    for config in collection.embedding_bag_configs():
        config.data_type = TABLE_TYPES[precision]
        # Called once more on the sharded tables, also on the empty piece of a process that holds none; the weights
        # that the tables have now are loaded afterwards anyway.
        config.init_fn = _leave_as_it_is
    # A fused kernel ignores requires_grad, and attaching to a parameter without it fails.
    collection.requires_grad_(True)
    # The sharder writes into these arguments: a dictionary shared by two parts would mix them up.
    _apply_optimizer_in_backward(_UPDATE_RULES[optimizer.name], collection.parameters(), _arguments(optimizer))


def _arguments(optimizer: TableOptimizer) -> dict[str, Any]:
    epsilon = {} if optimizer.name == "sgd" else {"eps": optimizer.epsilon}
    return {"lr": optimizer.learning_rate, **epsilon}


def _leave_as_it_is(weight: torch.Tensor) -> None:
    """Start nothing."""


def _broadcast_replicated(wrapped: WrappedRanker, context: ProcessContext) -> None:
    """Give every process the first one's replicated weights: they may have been drawn from different seeds."""
    if context.world_size > 1:
        with torch.no_grad():
            for tensor in (*wrapped.inventory.averaged_parameters(), *wrapped.inventory.dense_buffers().values()):
                dist.broadcast(tensor, src=0)


def _flat_gradient(parameter: nn.Parameter) -> torch.Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.detach().reshape(-1)
