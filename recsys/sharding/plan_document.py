"""A plan of tables as it is printed as JSON and recorded with a run, and in a sentence."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from recsys.sharding.planned_tables import TablePlacement
from recsys.sharding.table_plan import RankLoad, TablePlan

SHARDING_WORDS = {
    "table_wise": "whole",
    "row_wise": "by rows",
    "column_wise": "by columns",
    "data_parallel": "replicated",
}
"""How a table is divided among processes, in words."""
_UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


def plan_in_brief(found: TablePlan) -> str:
    """Say in a sentence how tables are divided, and what the processes hold of them."""
    cluster = found.cluster
    divided = Counter(SHARDING_WORDS[each.sharding] for each in found.placements)
    loads = found.ranks
    memories = {"on its GPU": [each.device_bytes for each in loads]} if cluster.device == "cuda" else {}
    memories["on the host"] = [each.host_bytes for each in loads]
    held = ", ".join(f"{_from_to(sizes)} {where}" for where, sizes in memories.items())
    left_out = f"; {len(found.unplaced)} do not fit" if found.unplaced else ""
    return (
        f"{len(found.placements)} tables planned for {cluster.world_size} "
        f"{'process' if cluster.world_size == 1 else 'processes'} ({cluster.device}): "
        f"{', '.join(f'{count} {how}' for how, count in divided.items())}{left_out}; a process holds {held}"
    )


def plan_document(found: TablePlan) -> dict[str, Any]:
    """Return a plan as plain JSON: every table with its shards, every process, and what does not fit."""
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
        "in_brief": plan_in_brief(found),
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


def size_in_words(count: int) -> str:
    """Return a number of bytes with its unit."""
    for unit, size in _UNITS.items():
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"


def _from_to(sizes: list[int]) -> str:
    least, most = size_in_words(min(sizes)), size_in_words(max(sizes))
    return most if least == most else f"{least} to {most}"
