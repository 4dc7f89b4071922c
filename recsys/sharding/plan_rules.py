"""What TorchRec's planner may choose from, and the plan that several processes train by.

The first process plans, and all others take its word for it: what each of them finds of its machine may differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.sharding.cluster import Cluster
from recsys.sharding.inventory import lies_in_staying
from recsys.sharding.planned_tables import TableToPlace
from recsys.sharding.processes import ProcessContext
from recsys.sharding.table_plan import TablePlan, plan_tables

_GB = 1e9
_DENSE_BYTES = 16  # of a dense parameter: itself, its gradient and AdamW's two moments


@dataclass(frozen=True)
class PlanRules:
    """What the planner may do with the tables of a model.

    Attributes:
        types: by part, ways to shard its tables, as `TableToPlace` has them.
        kernels: by part, memories that they may lie in where a GPU computes.
        table_types, table_kernels: the same by the name of a table, in place of its part's.
        cache_share: how much of a table's rows the cache of "uvm_caching" holds.
        ids_per_row: by feature, how many ids a row has of it; 1 where it has no entry.
    """

    types: Mapping[str, tuple[str, ...]]
    kernels: Mapping[str, tuple[str, ...]]
    table_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    table_kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cache_share: float = 0.2
    ids_per_row: Mapping[str, float] = field(default_factory=dict)

    @property
    def replicated(self) -> dict[str, str]:
        """Parts whose tables every process holds whole, as `wrap_ranker` is told."""
        return {part: "data_parallel" for part, types in self.types.items() if "data_parallel" in types}


@dataclass(frozen=True)
class Planning:
    """How the tables of a training are planned.

    Attributes:
        batch_rows: that one process takes in a step.
    """

    cluster: Cluster
    rules: PlanRules
    batch_rows: int

    def plan(
        self, module: nn.Module, learning: Mapping[str, str | None], precision: str, context: ProcessContext
    ) -> TablePlan:
        """Return where every table of the module lies. Every process calls it.

        Args:
            module, learning, precision: as `tables_to_place` takes them.

        Raises:
            UsageError: the tables do not fit; names them, and what would make them fit.
        """
        tables = tables_to_place(module, learning, precision, self.rules)  # what is refused, every process refuses
        answer: list[TablePlan | None] = [None]
        if context.is_first:
            answer = [plan_tables(tables, self.cluster, self.batch_rows, dense_bytes(module))]
        if context.world_size > 1:
            dist.broadcast_object_list(answer, src=0)
        plan = answer[0]
        assert plan is not None
        require_fit(plan)
        return plan


def tables_to_place(
    module: nn.Module, learning: Mapping[str, str | None], precision: str, rules: PlanRules
) -> list[TableToPlace]:
    """Return every table of a module that is not wrapped yet, with what the planner may do with it.

    Args:
        learning: by part, the update rule of its tables; None for a part that is frozen for good.
        precision: of the tables that learn, "float32" or "float16"; replicated and frozen ones are float32.

    Raises:
        UsageError: row-wise Adagrad meets column-wise sharding, or a table that rules are given for is not there.
    """
    tables: list[TableToPlace] = []
    for path, collection in module.named_modules():
        if not isinstance(collection, EmbeddingBagCollection):
            continue
        part = path.partition(".")[0]
        rule = None if lies_in_staying(module, path) else learning[part]
        for config in collection.embedding_bag_configs():
            is_replicated = part in rules.replicated
            types = rules.types.get(part, ("table_wise",))
            types = types if is_replicated else rules.table_types.get(config.name, types)
            require_whole_rows(f"Table `{config.name}` of `{part}`", types, rule)
            is_half = rule is not None and not is_replicated
            tables.append(
                TableToPlace(
                    path,
                    config.name,
                    config.num_embeddings,
                    config.embedding_dim,
                    types,
                    rules.table_kernels.get(config.name, rules.kernels.get(part, ("fused",))),
                    precision if is_half else "float32",
                    rule,
                    tuple(float(rules.ids_per_row.get(name, 1)) for name in config.feature_names),
                    rules.cache_share,
                )
            )
    # A part alone, as where a tower is pre-trained, need not have every table.
    if set(rules.types) <= {name for name, _ in module.named_children()}:
        require_known(rules, [table.name for table in tables])
    return tables


def require_known(rules: PlanRules, names: Sequence[str]) -> None:
    """Refuse rules for tables that there are not.

    Raises:
        UsageError: names the first, and the tables that there are.
    """
    for name in (*rules.table_types, *rules.table_kernels):
        if name not in names:
            raise UsageError(
                f"`sharding.tables` names `{name}`, and there is no such table. There are {', '.join(names)}."
            )


def dense_bytes(module: nn.Module) -> int:
    """What one process holds of a module beside its tables: weights, gradients and AdamW's moments."""
    tables = {
        id(weight)
        for child in module.modules()
        if isinstance(child, EmbeddingBagCollection)
        for weight in child.parameters()
    }
    return sum(_DENSE_BYTES * each.numel() for each in module.parameters() if id(each) not in tables)


def require_whole_rows(what: str, types: tuple[str, ...], rule: str | None) -> None:
    """Refuse to divide the columns of a table that learns by row-wise Adagrad.

    Args:
        what: the table or the collection, for the message.

    Raises:
        UsageError: says why.
    """
    if "column_wise" in types and rule == "rowwise_adagrad":
        raise UsageError(
            f"{what} is sharded column_wise and learns by rowwise_adagrad: every piece of a row would have its own "
            "accumulator, which is another optimizer for every number of processes, and no checkpoint of it could be "
            "resumed with another one. Shard it table_wise or row_wise, or use adagrad."
        )


def require_fit(plan: TablePlan) -> None:
    """Refuse to train where tables have no place.

    Raises:
        UsageError: names them, what they take, what there is, and what would make them fit.
    """
    if plan.fits:
        return
    cluster = plan.cluster
    named = ", ".join(f"`{each.name}` ({each.weight_bytes / _GB:,.1f} GB)" for each in plan.unplaced)
    device = f"{plan.free_device_bytes / _GB:,.1f} GB of a GPU and " if cluster.device == "cuda" else ""
    helpful = [each for each in plan.remedies if each.fits]
    mend = "; ".join(f"{each.change} ({' '.join(each.settings)})" if each.settings else each.change for each in helpful)
    raise UsageError(
        f"{len(plan.unplaced)} of the tables do not fit into {cluster.world_size} processes: {named}. Each process has "
        f"{device}{plan.free_host_bytes / _GB:,.1f} GB of host memory for tables. What would make them fit: "
        f"{mend or 'nothing that was tried; `recsys plan` says what was'}."
    )
