"""What would make tables fit that do not: each change is planned anew, so that none is offered on trust."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from recsys.sharding.cluster import Cluster
from recsys.sharding.planned_tables import COMPUTE_KERNELS, TableToPlace
from recsys.sharding.torchrec_planner import TableSearch

_DIVISORS = (2, 4, 8)  # of the vectors' width
_MOST_NODES, _MORE = 128, 1.2
_ROW_WISE, _DATA_PARALLEL = "row_wise", "data_parallel"


@dataclass(frozen=True)
class Remedy:
    """A change, and whether all tables would fit after it.

    Attributes:
        change: in words.
        settings: overrides that make it; none where several settings have to do with it.
    """

    change: str
    settings: tuple[str, ...]
    fits: bool


@dataclass(frozen=True)
class _Change:
    """What can be done to a table, and the override that does it to all of its part's, or to all tables."""

    words: str
    setting: str
    apply: Callable[[TableToPlace, Cluster], TableToPlace]


def find_remedies(
    tables: Sequence[TableToPlace], unplaced: Sequence[TableToPlace], search: TableSearch
) -> Iterator[Remedy]:
    """Yield each change of the parts whose tables do not fit, and several together where none is enough; then narrower
    vectors, and more nodes."""
    parts = list(dict.fromkeys(table.part for table in unplaced))
    possible = [each for each in _CHANGES if _changed(tables, parts, [each], search.cluster) != list(tables)]
    is_enough = False
    for count in range(1, len(possible) + 1):
        for changes in combinations(possible, count):
            fits = search.place(_changed(tables, parts, changes, search.cluster)) is not None
            if fits or count == 1:
                yield Remedy(_words(changes), _settings(changes, parts), fits)
            is_enough = is_enough or fits
        if is_enough:
            break
    for divisor in _DIVISORS:
        narrower = [_narrower(table, divisor) if table in unplaced else table for table in tables]
        if search.place(narrower) is not None:
            names = ", ".join(dict.fromkeys(table.name for table in unplaced))
            yield Remedy(f"vectors of {names} 1/{divisor} as wide", (), True)
            break
    for changes in ((), tuple(possible)):
        nodes = _enough_nodes(_changed(tables, parts, changes, search.cluster), search)
        if nodes is not None:
            words = " and ".join(
                [f"{nodes} nodes in place of {search.cluster.nodes}", *filter(None, [_words(changes)])]
            )
            yield Remedy(words, (f"cluster.nodes={nodes}", *_settings(changes, parts)), True)
        if nodes is not None or is_enough:
            break


def _enough_nodes(tables: Sequence[TableToPlace], search: TableSearch) -> int | None:
    """How many such nodes hold the tables, 128 at most; None where more nodes do not help."""
    cluster = search.cluster
    needed = sum(table.weight_bytes for table in tables)
    nodes = max(cluster.nodes + 1, -(-needed // max(1, cluster.devices_per_node * sum(search.free_bytes()))))
    while nodes <= _MOST_NODES:
        larger = search.on(cluster.with_nodes(nodes))
        shares = map(larger.share_of_process, larger.smallest_shards(tables))
        whole = [share for table, share in zip(tables, shares, strict=True) if _ROW_WISE not in table.types]
        if any(share > 1 for share in whole):
            return None
        if larger.place(tables) is not None:
            return nodes
        nodes = max(nodes + 1, int(nodes * _MORE))
    return None


def _changed(
    tables: Sequence[TableToPlace], parts: Sequence[str], changes: Sequence[_Change], cluster: Cluster
) -> list[TableToPlace]:
    changed = list(tables)
    for change in changes:
        is_of_all = "{part}" not in change.setting
        changed = [change.apply(each, cluster) if is_of_all or each.part in parts else each for each in changed]
    return changed


def _words(changes: Sequence[_Change]) -> str:
    return " and ".join(change.words for change in changes)


def _settings(changes: Sequence[_Change], parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(change.setting.format(part=part) for change in changes for part in parts))


def _in_any_memory(table: TableToPlace, cluster: Cluster) -> TableToPlace:
    if cluster.device == "cpu" or _DATA_PARALLEL in table.types or len(table.kernels) == len(COMPUTE_KERNELS):
        return table
    return replace(table, kernels=tuple(COMPUTE_KERNELS))


def _divided(table: TableToPlace, cluster: Cluster) -> TableToPlace:
    # A run on CPUs refuses it: gloo gathers pieces of one size alone.
    if _ROW_WISE in table.types or cluster.world_size == 1 or cluster.device == "cpu":
        return table
    return replace(table, types=("table_wise", _ROW_WISE))


def _in_half_precision(table: TableToPlace, cluster: Cluster) -> TableToPlace:
    # Replicated tables and frozen ones are float32 in any case.
    return table if _DATA_PARALLEL in table.types or table.optimizer is None else replace(table, precision="float16")


def _narrower(table: TableToPlace, divisor: int) -> TableToPlace:
    return replace(table, width=max(4, table.width // divisor // 4 * 4))


_CHANGES = (
    _Change(
        "tables in the host's memory where the GPU's is full",
        "training.table_kernels.{part}=auto",
        _in_any_memory,
    ),
    _Change("rows divided over all processes", "sharding.types.{part}=[table_wise,row_wise]", _divided),
    _Change("weights in half precision", "training.table_precision=float16", _in_half_precision),
)
