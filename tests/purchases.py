"""A made-up shop's purchases, without labels: events, a side table of items, a schema file, and a run in seconds."""

import copy
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts.scorer import Scorer

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


def candidates_at(events: pd.DataFrame, user: str, country: str, moment: datetime) -> pd.DataFrame:
    """One row per candidate of the last 20 days before a moment's day, by pandas, and the `count` behind each.

    Args:
        events: as `purchases` gives them; those from the moment on are not looked at.
    """
    day = pd.Timestamp(moment).normalize()
    before = events[events["at"] < day]
    recent = before[before["at"] >= day - pd.Timedelta(days=20)].groupby("item_id").size()
    week = before[before["at"] >= day - pd.Timedelta(days=7)].groupby("item_id").size()
    own = events[(events["user_id"] == user) & (events["at"] < moment)].sort_values(["at", "item_id"])
    times = own.groupby("item_id").size()
    return pd.DataFrame(
        {
            "user_id": user,
            "country": country,
            "user_lines": len(own),
            "recent_item_ids": [own["item_id"].tolist()[-5:]] * len(recent),
            "item_id": recent.index,
            "category": [f"c{int(item) % 4}" for item in recent.index],
            "item_sold_7d": [int(week.get(item, 0)) for item in recent.index],
            "bought_times": [int(times.get(item, 0)) for item in recent.index],
            "bought_share": [times.get(item, 0) / len(own) if len(own) else None for item in recent.index],
            "segment": "new" if len(own) < 6 else "regular",
            "count": recent.to_numpy(),
        }
    )


def scored(rows: pd.DataFrame, scorer: Scorer) -> pd.DataFrame:
    """The rows with `probability`, and the `score` by which candidates are ranked."""
    # Under the schema's own names: no reader in between.
    plain = Scorer(scorer.ranker, scorer.contract, scorer.vocabularies)
    probability = plain.score(pa.Table.from_pandas(rows.drop(columns="count"), preserve_index=False))
    score = np.log(probability / (1 - probability)) + 0.5 * np.log(rows["count"])
    return rows.assign(probability=probability, score=score)


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
