"""Where tables would lie on a cluster, what they would take, and what would make them fit; nothing is trained."""

import argparse
import json
import re
import sys
from collections.abc import Sequence

from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.progress import silent
from recsys.run.cluster_plan import StatedTables, plan
from recsys.sharding.plan_document import SHARDING_WORDS, plan_document, size_in_words
from recsys.sharding.planned_tables import TablePlacement
from recsys.sharding.processes import CUDA
from recsys.sharding.table_plan import TablePlan

from .console import console, progress_bars, show_table

_OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")
_ROWS = re.compile(r"(?P<name>[^=]+)=(?P<rows>[\d_]+)")
_TABLE = re.compile(r"(?P<name>[^=]+)=(?P<rows>[\d_]+)x(?P<width>\d+)")
_MEMORY_WORDS = {"fused": "GPU", "uvm": "host", "uvm_caching": "host, cached on the GPU"}


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Plan and print; where not all tables fit, return the exit code with which training would refuse to start."""
    stated = _stated(arguments)
    if arguments.json:
        found = plan(config, stated, silent)
        sys.stdout.write(json.dumps(plan_document(found), indent=2) + "\n")
    else:
        with progress_bars() as progress:
            found = plan(config, stated, progress)
        _show(found)
    return 0 if found.fits else UsageError.exit_code


def _stated(arguments: argparse.Namespace) -> StatedTables:
    if arguments.optimizer not in _OPTIMIZERS:
        raise UsageError(f"`--optimizer` is {arguments.optimizer!r}; expected one of {', '.join(_OPTIMIZERS)}.")
    tables = {
        name: (int(rows), int(width))
        for name, rows, width in _entries(arguments.tables, "--tables", _TABLE, "item_id=1_000_000_000x128")
    }
    for name, (rows, width) in tables.items():
        if rows < 1 or width < 1 or width % 4:
            raise UsageError(
                f"`--tables` has `{name}` with {rows} rows of {width} numbers; expected a row or more, and a width "
                f"that is a multiple of 4, as the fused kernels need it, such as {max(1, -(-width // 4)) * 4}."
            )
    rows_of = {name: int(rows) for name, rows in _entries(arguments.rows, "--rows", _ROWS, "item_id=1_000_000_000")}
    if few := [name for name, rows in rows_of.items() if rows < 1]:
        raise UsageError(f"`--rows` gives `{few[0]}` no row; expected one or more, the unknown id's included.")
    return StatedTables(tables, rows_of, arguments.optimizer)


def _entries(text: str, flag: str, form: re.Pattern[str], example: str) -> list[tuple[str, ...]]:
    entries = []
    for word in filter(None, text.split(",")):
        if (match := form.fullmatch(word.strip())) is None:
            raise UsageError(f"`{flag}` has {word!r}, which cannot be read; expected entries such as {example}.")
        entries.append(match.groups())
    return entries


def _show(found: TablePlan) -> None:
    cluster = found.cluster
    has_gpus = cluster.device == CUDA
    devices = f"GPUs of {size_in_words(cluster.device_bytes)}" if has_gpus else "CPU processes"
    _say(
        f"Planned for {cluster.nodes} x {cluster.devices_per_node} {devices}, with "
        f"{size_in_words(cluster.host_bytes)} of host memory on each node; "
        f"{cluster.reserved_share:.0%} of each memory is held back."
    )
    of_gpus = ("memory", "on a GPU") if has_gpus else ()
    header = ("table", "rows", "width", "size", "type", "divided", "rank", *of_gpus, "on the host", "ms")
    rows = [_row(each, has_gpus) for each in found.placements]
    show_table("Where each table lies; memory and ms of the process that has most of it", header, rows)
    _show_ranks(found, has_gpus)
    if found.fits:
        _say(f"All tables fit; they take {found.milliseconds:.2f} ms of a step, by the planner's estimate.")
        return
    for table in found.unplaced:
        alone = "not even alone" if table in found.too_large else "not beside the others"
        _say(f"Does not fit: {table.part} {table.name}, {size_in_words(table.weight_bytes)}, {alone}.")
    for remedy in found.remedies:
        settings = f": {' '.join(remedy.settings)}" if remedy.settings else ""
        _say(f"{'Would fit with' if remedy.fits else 'Not enough:'} {remedy.change}{settings}")
    if not any(remedy.fits for remedy in found.remedies):
        _say("Nothing that was tried makes them fit: use fewer rows, or hash ids to fewer.")


def _row(placement: TablePlacement, has_gpus: bool) -> Sequence[str]:
    table, shards = placement.table, placement.shards
    most = max(shards, key=lambda shard: (shard.device_bytes, shard.host_bytes))
    return (
        f"{table.part} {table.name}",
        f"{table.rows:,}",
        str(table.width),
        size_in_words(table.weight_bytes),
        table.precision,
        SHARDING_WORDS[placement.sharding],
        _ranks([shard.rank for shard in shards]),
        *((_MEMORY_WORDS[placement.kernel], size_in_words(most.device_bytes)) if has_gpus else ()),
        size_in_words(most.host_bytes),
        f"{max(shard.milliseconds for shard in shards):.2f}",
    )


def _show_ranks(found: TablePlan, has_gpus: bool) -> None:
    alike: list[tuple[list[int], tuple[str, ...]]] = []  # ranks in a row that show the same, and what
    for each in found.ranks:
        cells = (
            *((size_in_words(each.device_bytes), size_in_words(found.free_device_bytes)) if has_gpus else ()),
            size_in_words(each.host_bytes),
            size_in_words(found.free_host_bytes),
            f"{each.milliseconds:.2f}",
        )
        if alike and alike[-1][1] == cells:
            alike[-1][0].append(each.rank)
        else:
            alike.append(([each.rank], cells))
    header = ("rank", *(("on its GPU", "of") if has_gpus else ()), "on the host", "of", "ms")
    rows = [(_ranks(ranks), *cells) for ranks, cells in alike]
    show_table("What each process holds of the tables, of what it has for them", header, rows)


def _ranks(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{min(ranks)} to {max(ranks)}"


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
