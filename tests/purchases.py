"""A made-up shop's purchases, without labels: events, a side table of items, a schema file, and a run in seconds."""

import copy
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

USERS, ITEMS, DAYS = 12, 30, 30
_USER, _ITEM, _BOTH = (
    ["user_tower", "interaction_network"],
    ["item_tower", "interaction_network"],
    ["interaction_network"],
)
SCHEMA: dict[str, Any] = {
    "name": "purchases",
    "segment": "segment",
    "segments": ["new", "regular"],
    "label": "label",
    "time": "time",
    "user": "user_id",
    "item": "item_id",
    "features": [
        {"name": "user_id", "kind": "sparse", "used_by": _USER},
        {"name": "country", "kind": "sparse", "used_by": _USER},
        {"name": "user_lines", "kind": "dense", "scale": "log", "used_by": _USER},
        {"name": "recent_item_ids", "kind": "sparse_list", "table": "item_id", "max_length": 5, "used_by": _USER},
        {"name": "item_id", "kind": "sparse", "used_by": _ITEM},
        {"name": "category", "kind": "sparse", "used_by": _ITEM},
        {"name": "item_sold_7d", "kind": "dense", "scale": "log", "used_by": _ITEM},
        {"name": "bought_times", "kind": "dense", "scale": "log", "used_by": _BOTH},
        {"name": "bought_share", "kind": "dense", "fill": 0, "used_by": _BOTH},
    ],
    "table": {
        "files": "purchases.parquet",
        "time": {"column": "at", "unit": "timestamp"},
        "tables": {"items": {"files": "items.parquet", "key": "item_id"}},
        "query": {"column": "invoice", "keep": {"country": "max"}},
        "candidates": {"within": "20d"},
        "negatives": {"per_positive": 3, "power": 0.5},
        "ranking": {"validation_queries": 10},
        "splits": {"validation_start": "2024-03-21", "test_start": "2024-03-25"},
        "segment": {"column": "user_lines", "bins": [6]},
        "derive": {"bought_share": "bought_times / user_lines"},
        "history": {
            "scope": "live",
            "features": {
                "user_lines": {"kind": "count", "by": ["user_id"]},
                "recent_item_ids": {"kind": "recent", "of": "item_id", "by": ["user_id"], "length": 5},
                "item_sold_7d": {"kind": "count", "by": ["item_id"], "window": "7d", "before": "day"},
                "bought_times": {"kind": "count", "by": ["user_id", "item_id"]},
            },
        },
    },
}


def purchases() -> pa.Table:
    """Invoices of two to four items, at most one per user and day; users have favourites."""
    draw = np.random.default_rng(3)
    rows: dict[str, list[Any]] = {name: [] for name in ("invoice", "user_id", "item_id", "country", "at")}
    for day in range(DAYS):
        for user in np.flatnonzero(draw.random(USERS) < 0.5).tolist():
            bought = {(user * 3 + int(each)) % ITEMS for each in draw.exponential(4, draw.integers(2, 5))}
            for item in sorted(bought):
                rows["invoice"].append(f"i{day:02d}-{user}")
                rows["user_id"].append(f"u{user:02d}")
                rows["item_id"].append(f"{item:03d}")
                rows["country"].append("FR" if user % 2 else "DE")
                rows["at"].append(datetime(2024, 3, 1) + timedelta(days=day, hours=9, minutes=user))
    return pa.table(rows)


def schema_of(features: list[dict[str, Any]] | None = None, **table: Any) -> dict[str, Any]:
    """The schema file; `table` replaces keys of its block, None removes one."""
    document = copy.deepcopy(SCHEMA)
    block = document["table"] | table
    document["table"] = {key: value for key, value in block.items() if value is not None}
    return document | ({"features": features} if features else {})


class Purchases:
    """A folder with the files and the schema, and the overrides to train on them in seconds."""

    def __init__(self, root: Path, document: dict[str, Any] | None = None, events: pa.Table | None = None) -> None:
        self.root, self.raw, self.schema_path = root, root / "raw", root / "purchases.yaml"
        self.raw.mkdir(parents=True)
        pq.write_table(purchases() if events is None else events, self.raw / "purchases.parquet")
        items = [f"{item:03d}" for item in range(ITEMS)]
        categories = pa.table({"item_id": items, "category": [f"c{item % 4}" for item in range(ITEMS)]})
        pq.write_table(categories, self.raw / "items.parquet")
        self.schema_path.write_text(json.dumps(document or SCHEMA), encoding="utf-8")

    @property
    def overrides(self) -> list[str]:
        """What is composed into the configuration."""
        places = {name: self.root / name for name in ("runs", "encoded", "towers")}
        return [
            "data=table",
            "data.name=purchases",
            f"data.schema_path={self.schema_path}",
            f"data.raw={self.raw}",
            *(f"runtime.{name}={place}" for name, place in places.items()),
            "runtime.threads=1",
            "tower.width=4",
            "tower.table_dimension=4",
            "tower.hidden_widths=[8]",
            "tower.epochs=2",
            "tower.batch_size=64",
            "training.epochs=1",
            "training.batch_size=128",
            "network.field_width=4",
            "network.hidden_widths=[8]",
            "tracking.system_metrics=false",
        ]
