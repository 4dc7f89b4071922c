"""A small shop whose days arrive one after the other, and the folders that preparing it leaves."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.files import sha256_of_file

FIRST = datetime.date(2026, 1, 1)
DAY = datetime.timedelta(days=1)
Row = dict[str, Any]

_FORM = pa.schema(
    {
        "invoice": pa.string(),
        "user_id": pa.int64(),
        "sku": pa.string(),
        "brand": pa.string(),
        "price": pa.float64(),
        "bought": pa.int64(),
        "at": pa.timestamp("us"),
    }
)


def some_rows(days: int, seed: int, per_day: int = 9) -> list[Row]:
    """Rows of consecutive days, some of which are empty; invoices of several lines, some over midnight."""
    draw, rows = np.random.default_rng(seed), list[Row]()
    for number in range(days):
        start = datetime.datetime.combine(FIRST + number * DAY, datetime.time())
        for invoice in range(int(draw.integers(0, per_day)) if number % 7 != 4 else 0):
            # Every fourth begins at midnight, every fourth ends after it.
            minute = [0, 600, 1435, 900][int(draw.integers(4))]
            for line in range(int(draw.integers(1, 4))):
                item = int(draw.integers(1, 8))
                rows.append(
                    {
                        "invoice": f"i{number}-{invoice}",
                        "user_id": int(draw.integers(1, 4)) if line == 0 else rows[-1]["user_id"],
                        "sku": f"s{item}",
                        "brand": None if draw.random() < 0.4 else f"b{item % 3}",
                        "price": float(item) + float(draw.integers(0, 8)) / 8,
                        "bought": int(draw.integers(2)),
                        "at": start + datetime.timedelta(minutes=minute + 4 * line),
                    }
                )
    return rows


def write_days(raw: Path, rows: Sequence[Row]) -> None:
    """One file for each day of the rows."""
    raw.mkdir(parents=True, exist_ok=True)
    for day in sorted({row["at"].date() for row in rows}):
        of_day = [row for row in rows if row["at"].date() == day]
        pq.write_table(pa.Table.from_pylist(of_day, schema=_FORM), raw / f"{day}.parquet")


def _feature(name: str, kind: str = "dense", **keys: Any) -> dict[str, Any]:
    keys = {"fill": 0, **keys} if kind == "dense" else keys
    return {"name": name, "kind": kind, "used_by": ["user_tower", "item_tower", "interaction_network"], **keys}


PAST: dict[str, Any] = {
    "user_rows": {"kind": "count", "by": ["user_id"]},
    "pair_rows": {"kind": "count", "by": ["user_id", "item_id"]},
    "item_3d": {"kind": "count", "by": ["item_id"], "window": "3d", "before": "day"},
    "item_then": {"kind": "sum", "of": "price", "by": ["item_id"], "window": "30h", "ago": "2d"},
    "user_mean": {"kind": "mean", "of": "price", "by": ["user_id"], "prior_rows": 2.0},
    "again_share": {"kind": "mean", "of": "is_again", "by": ["user_id"], "prior_rows": 0.0},
    "user_items": {"kind": "distinct", "of": "item_id", "by": ["user_id"]},
    "items_2d": {"kind": "distinct", "of": "item_id", "by": ["user_id"], "window": "2d"},
    "dearest": {"kind": "max", "of": "price", "by": ["item_id"]},
    "cheapest_2d": {"kind": "min", "of": "price", "by": ["item_id"], "window": "2d"},
    "days_away": {"kind": "days_since_last", "by": ["user_id"]},
    "item_age": {"kind": "days_since_first", "by": ["item_id"], "before": "day"},
    "share": {"kind": "share", "by": ["user_id", "item_id"], "within": ["user_id"], "prior_rows": 1.0},
    "recent": {"kind": "recent", "of": "item_id", "by": ["user_id"], "length": 3, "rows": "all"},
    "last_items": {"kind": "recent", "of": "item_id", "by": ["user_id"], "length": 2, "rows": "all", "distinct": True},
    "affinity": {"kind": "co_occurrence", "of": "item_id", "to": "last_items", "together": "invoice"},
}
_LISTS = ("recent", "last_items")


def document(kind: str, past: Sequence[str] = tuple(PAST), **table: Any) -> dict[str, Any]:
    """The schema of the shop's rows, as labelled events or as choices.

    Args:
        past: the names of `PAST` that it counts; what they are made of is taken along.
        table: keys of the `table:` block in place of its own; None removes one.
    """
    needed = {"again_share": ["pair_rows"], "affinity": ["last_items"]}
    names = list(dict.fromkeys(each for name in past for each in (*needed.get(name, []), name)))
    block: dict[str, Any] = {
        "files": "*.parquet",
        "columns": {"item_id": "sku"},
        "time": {"column": "at", "unit": "timestamp"},
        "where": ["price > 1.2"],
        "derive": {"is_again": "cast(pair_rows > 0 as bigint)"} if "pair_rows" in names else {},
        "segment": {"column": "user_rows", "bins": [2]} if "user_rows" in names else {"column": "user_id", "bins": [2]},
        "splits": {"validation_start": "2026-01-08", "test_start": "2026-01-09"},
        "history": {"scope": "live", "features": {name: PAST[name] for name in names}},
    }
    if kind == "labelled":
        block |= {"label": "bought"}
    else:
        block |= {
            "query": {"column": "invoice"},
            "candidates": {"within": "5d"},
            "negatives": {"per_positive": 2, "power": 0.5, "seed": 1},
            "ranking": {"validation_queries": 2},
            "tables": {"brands": {"key": "sku", "columns": {"item_brand": "brand"}}},
        }
    block = {key: value for key, value in {**block, **table}.items() if value is not None}
    brand = [_feature("item_brand", "sparse")] if "brands" in block.get("tables", {}) else []
    return {
        "name": "shop",
        "segment": "activity",
        "segments": ["new", "known"],
        "label": "label",
        "time": "time",
        "user": "user_id",
        "item": "item_id",
        "features": [
            _feature("user_id", "sparse"),
            _feature("item_id", "sparse"),
            *brand,
            *(
                _feature(name, "sparse_list", table="item_id", max_length=3) if name in _LISTS else _feature(name)
                for name in names
            ),
        ],
        "table": block,
    }


def config_of(folder: Path, schema: dict[str, Any], end: datetime.date, encoded: str = "encoded") -> RunConfig:
    """A window of five days of training, one of validation and one of test before `end`."""
    path = folder / "schema.yaml"
    path.write_text(json.dumps(schema), encoding="utf-8")
    dates = {"train_start": end - 7 * DAY, "validation_start": end - 2 * DAY, "test_start": end - DAY, "test_end": end}
    return compose_config(
        [
            "data=table",
            "data.name=shop",
            f"data.schema_path={path}",
            f"data.raw={folder / 'raw'}",
            *(f"data.{name}={day}" for name, day in dates.items()),
            f"runtime.encoded={folder / encoded}",
            "runtime.memory_limit=500MB",
        ]
    )


def bytes_of(root: Path) -> dict[str, str]:
    """The digest of every file of an encoded folder."""
    return {str(path.relative_to(root)): sha256_of_file(path) for path in sorted(root.rglob("*")) if path.is_file()}
