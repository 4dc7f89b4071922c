"""Tiny worlds for tests: raw rows made from a seed, and the encoded folder that `encode` makes of them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import load
from recsys.datasets.encode import encode
from recsys.datasets.source import SourceRows
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress

FIRST_DAY = datetime(2011, 6, 28, tzinfo=UTC)
SEGMENTS = ("new", "light", "heavy")


@dataclass(frozen=True)
class MadeSource:
    """A source whose rows are handed to it."""

    rows: pa.Table
    extras: tuple[str, ...] = ()
    description: dict[str, Any] = field(default_factory=dict)

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        return SourceRows(load(connection, "made", self.rows), self.extras, self.description)


def world_schema() -> FeatureSchema:
    """Two dense features, three sparse ones, and a list that shares the items' table."""
    both = ["interaction_network"]
    return FeatureSchema.from_document(
        {
            "name": "small_world",
            "features": [
                {"name": "user_id", "kind": "sparse", "used_by": ["user_tower", *both]},
                {"name": "item_id", "kind": "sparse", "used_by": ["item_tower", *both]},
                {"name": "country", "kind": "sparse", "used_by": ["user_tower", *both]},
                {
                    "name": "recent_item_ids",
                    "kind": "sparse_list",
                    "table": "item_id",
                    "max_length": 3,
                    "used_by": ["user_tower", *both],
                },
                {"name": "price", "kind": "dense", "scale": "log", "minimum": 0, "used_by": ["item_tower", *both]},
                {"name": "days_away", "kind": "dense", "fill": 30, "used_by": ["user_tower", *both]},
            ],
            "segment": "activity",
            "segments": list(SEGMENTS),
            "label": "clicked",
            "time": "clicked_at",
            "user": "user_id",
            "item": "item_id",
        }
    )


def world_rows(days: dict[str, int], rows_per_day: int, seed: int, users: int = 20, items: int = 30) -> pa.Table:
    """Raw rows: `days` says how many consecutive days each split gets, in this order; labels depend on the features."""
    rng = np.random.default_rng(seed)
    pieces = []
    start = FIRST_DAY
    for split, number in days.items():
        for _ in range(number):
            pieces.append(_rows_of_day(rng, split, start, rows_per_day, users, items))
            start += timedelta(days=1)
    return pa.concat_tables(pieces)


def write_encoded_world(
    folder: Path,
    rows_per_day: int = 60,
    days: dict[str, int] | None = None,
    seed: int = 0,
    users: int = 20,
    items: int = 30,
) -> FeatureContract:
    """Encode a small world at `folder` and return its contract.

    Train has 3 days, validation and test 1 each, unless `days` says otherwise. Extras: user_key, query, is_new_to_user.
    """
    rows = world_rows(days or {"train": 3, "validation": 1, "test": 1}, rows_per_day, seed, users, items)
    source = MadeSource(rows, extras=("user_key", "query", "is_new_to_user"))
    return encode(source, world_schema(), folder, memory_limit="200MB", threads=1)


def _rows_of_day(rng: np.random.Generator, split: str, start: datetime, rows: int, users: int, items: int) -> pa.Table:
    user, item = rng.integers(users, size=rows), rng.integers(items, size=rows)
    segment = user % len(SEGMENTS)
    logit = np.where(segment == 0, 1.0, -1.0) * (item % 2 * 4 - 2) + 0.5 * (user % 2)
    seconds = np.sort(rng.integers(86_400, size=rows))
    return pa.table(
        {
            "user_id": pa.array(1000 + user, pa.int64()),
            "item_id": [f"item-{number}" for number in item],
            "country": [("France", "Eire", None)[number % 3] for number in user],
            "recent_item_ids": [[f"item-{i}" for i in rng.integers(items, size=number % 5)] for number in user],
            "price": rng.lognormal(size=rows),
            "days_away": pa.array(rng.exponential(10, size=rows), mask=user % 7 == 0),
            "activity": [SEGMENTS[number] for number in segment],
            "clicked": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
            "clicked_at": pa.array([start + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us", "UTC")),
            "split": [split] * rows,
            "day": [start.date()] * rows,
            "user_key": pa.array(user, pa.int64()),
            "query": pa.array(start.toordinal() * 1000 + user, pa.int64()),
            "is_new_to_user": rng.integers(2, size=rows).astype(np.int8),
        }
    )
