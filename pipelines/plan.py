"""Where tables would lie on a cluster, what they would take, and what would make them fit; nothing is trained."""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.progress import silent
from recsys.run.cluster_plan import StatedTables, plan
from recsys.sharding.planned_tables import TablePlacement
from recsys.sharding.processes import CUDA
from recsys.sharding.table_plan import RankLoad, TablePlan

from .console import console, progress_bars, show_table

_UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}
_OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")
_ROWS = re.compile(r"(?P<name>[^=]+)=(?P<rows>[\d_]+)")
_TABLE = re.compile(r"(?P<name>[^=]+)=(?P<rows>[\d_]+)x(?P<width>\d+)")
_SHARDING_WORDS = {
    "table_wise": "whole",
    "row_wise": "by rows",
    "column_wise": "by columns",
    "data_parallel": "replicated",
}
_MEMORY_WORDS = {"fused": "GPU", "uvm": "host", "uvm_caching": "host, cached on the GPU"}


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Plan and print."""
    stated = _stated(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(_document(plan(config, stated, silent)), indent=2) + "\n")
        return
    with progress_bars() as progress:
        found = plan(config, stated, progress)
    _show(found)


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
    devices = f"GPUs of {_size(cluster.device_bytes)}" if has_gpus else "CPU processes"
    _say(
        f"Planned for {cluster.nodes} x {cluster.devices_per_node} {devices}, with {_size(cluster.host_bytes)} of host "
        f"memory on each node; {cluster.reserved_share:.0%} of each memory is held back."
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
        _say(f"Does not fit: {table.part} {table.name}, {_size(table.weight_bytes)}, {alone}.")
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
        _size(table.weight_bytes),
        table.precision,
        _SHARDING_WORDS[placement.sharding],
        _ranks([shard.rank for shard in shards]),
        *((_MEMORY_WORDS[placement.kernel], _size(most.device_bytes)) if has_gpus else ()),
        _size(most.host_bytes),
        f"{max(shard.milliseconds for shard in shards):.2f}",
    )


def _show_ranks(found: TablePlan, has_gpus: bool) -> None:
    alike: list[tuple[list[int], tuple[str, ...]]] = []  # ranks in a row that show the same, and what
    for each in found.ranks:
        cells = (
            *((_size(each.device_bytes), _size(found.free_device_bytes)) if has_gpus else ()),
            _size(each.host_bytes),
            _size(found.free_host_bytes),
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


def _document(found: TablePlan) -> dict[str, Any]:
    cluster = found.cluster
    return {
        "cluster": {
            "device": cluster.device,
            "nodes": cluster.nodes,
            "devices_per_node": cluster.devices_per_node,
            "device_bytes": cluster.device_bytes,
            "host_bytes": cluster.host_bytes,
            "reserved_share": cluster.reserved_share,
        },
        "fits": found.fits,
        "milliseconds": found.milliseconds,
        "tables": [_placement(each) for each in found.placements],
        "ranks": [_rank(each, found) for each in found.ranks],
        "unplaced": [
            {
                "part": table.part,
                "table": table.name,
                "rows": table.rows,
                "width": table.width,
                "bytes": table.weight_bytes,
                "fits_alone": table not in found.too_large,
            }
            for table in found.unplaced
        ],
        "remedies": [
            {"change": each.change, "settings": list(each.settings), "fits": each.fits} for each in found.remedies
        ],
    }


def _placement(placement: TablePlacement) -> Mapping[str, Any]:
    table = placement.table
    return {
        "part": table.part,
        "collection": table.path,
        "table": table.name,
        "rows": table.rows,
        "width": table.width,
        "precision": table.precision,
        "bytes": table.weight_bytes,
        "sharding": placement.sharding,
        "kernel": placement.kernel,
        "shards": [
            {
                "rank": shard.rank,
                "rows": shard.rows,
                "columns": shard.columns,
                "device_bytes": shard.device_bytes,
                "host_bytes": shard.host_bytes,
                "milliseconds": shard.milliseconds,
            }
            for shard in placement.shards
        ],
    }


def _rank(load: RankLoad, found: TablePlan) -> Mapping[str, Any]:
    return {
        "rank": load.rank,
        "device_bytes": load.device_bytes,
        "free_device_bytes": found.free_device_bytes,
        "host_bytes": load.host_bytes,
        "free_host_bytes": found.free_host_bytes,
        "milliseconds": load.milliseconds,
    }


def _size(count: int) -> str:
    for unit, size in _UNITS.items():
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
