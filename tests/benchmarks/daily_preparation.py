"""How long a day's preparation takes as the history grows, beside preparing from scratch.

    python tests/benchmarks/daily_preparation.py [--days 365] [--measured 30] [--events-per-day 1000]
        [--json]

A made-up shop gets a file a day. Its past is counted in every way that has a state of its own: sums, distinct values,
windows, lists, what is bought together, a feature counted of another. Each day is prepared as a scheduled run does, on
a window of two weeks: `--measured` days from the second month on, and as many at the end. Each of the two begins with a
day that is not timed, which takes up all before it. Measured are the wall clock and the processor's time of this
process, which takes no part in what else the machine does. At the end the last window is prepared from scratch, with
every day's file read anew.

`--json` ends with one JSON object: medians of the first and of the last days and their ratio (1 is flat), and how many
times as long the preparation from scratch took.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.progress import silent
from recsys.run import prepare, prepare_daily

FIRST = datetime.date(2025, 1, 1)
DAY = datetime.timedelta(days=1)
FIRST_PREPARED = 30
USERS, ITEMS = 2000, 500


def schema_document() -> dict[str, Any]:
    """The shop's schema: a feature for each way of counting."""
    past = {
        "user_rows": {"kind": "count", "by": ["user_id"]},
        "pair_rows": {"kind": "count", "by": ["user_id", "item_id"]},
        "item_7d": {"kind": "count", "by": ["item_id"], "window": "7d", "before": "day"},
        "user_mean": {"kind": "mean", "of": "price", "by": ["user_id"], "prior_rows": 5.0},
        "again_share": {"kind": "mean", "of": "is_again", "by": ["user_id"], "prior_rows": 0.0},
        "user_items": {"kind": "distinct", "of": "item_id", "by": ["user_id"]},
        "days_away": {"kind": "days_since_last", "by": ["user_id"]},
        "recent": {"kind": "recent", "of": "item_id", "by": ["user_id"], "length": 10, "rows": "all", "distinct": True},
        "affinity": {"kind": "co_occurrence", "of": "item_id", "to": "recent", "together": "invoice"},
    }
    used = {"used_by": ["user_tower", "item_tower", "interaction_network"]}
    lists = {"name": "recent", "kind": "sparse_list", "table": "item_id", "max_length": 10, **used}
    return {
        "name": "shop",
        "segment": "activity",
        "segments": ["new", "known"],
        "label": "label",
        "time": "time",
        "user": "user_id",
        "item": "item_id",
        "features": [
            *({"name": name, "kind": "sparse", **used} for name in ("user_id", "item_id")),
            *({"name": name, "kind": "dense", "fill": 0, **used} for name in past if name != "recent"),
            lists,
        ],
        "table": {
            "files": "*.parquet",
            "time": {"column": "at", "unit": "timestamp"},
            "query": {"column": "invoice"},
            "candidates": {"within": "7d"},
            "negatives": {"per_positive": 2, "power": 0.5, "seed": 1},
            "ranking": {"validation_queries": 20, "test_queries": 20},
            "segment": {"column": "user_rows", "bins": [5]},
            "derive": {"is_again": "cast(pair_rows > 0 as bigint)"},
            "history": {"scope": "live", "features": past},
            "splits": {"validation_start": "2025-02-01", "test_start": "2025-02-02"},
        },
    }


def write_day(raw: Path, number: int, events: int) -> None:
    """The file of one day: invoices of two to four lines."""
    draw = np.random.default_rng(number)
    invoices = np.repeat(np.arange(events), draw.integers(2, 5, events))[:events]
    start = np.datetime64((FIRST + number * DAY).isoformat(), "us")
    frame = pd.DataFrame(
        {
            "invoice": [f"{number}-{invoice}" for invoice in invoices],
            "user_id": draw.integers(1, USERS, events)[invoices],
            "item_id": (ITEMS * draw.random(events) ** 2).astype(np.int64),
            "price": np.round(draw.lognormal(2, 0.5, events), 2),
            "at": start + (np.sort(draw.integers(0, 86_400, events))[invoices]).astype("timedelta64[s]"),
        }
    )
    frame.to_parquet(raw / f"{FIRST + number * DAY}.parquet", index=False)


def config_of(folder: Path, end: datetime.date, encoded: str) -> RunConfig:
    """Two weeks before `end`, the last two days of which are held out."""
    dates = {"train_start": end - 14 * DAY, "validation_start": end - 2 * DAY, "test_start": end - DAY, "test_end": end}
    words = [f"data.{name}={day}" for name, day in dates.items()]
    words += [f"data.schema_path={folder}/schema.yaml", f"data.raw={folder}/raw", f"runtime.encoded={folder}/{encoded}"]
    return compose_config(["data=table", "data.name=shop", *words])


def timed(work: Any, *arguments: Any) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor


def summary(first: Sequence[tuple[float, float]], last: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians of the first and of the last days, and how they compare."""
    found = dict[str, float]()
    for place, name in enumerate(("seconds", "processor_seconds")):
        early, late = (statistics.median(each[place] for each in days) for days in (first, last))
        found |= {f"first_{name}": early, f"last_{name}": late, f"{name}_ratio": late / early}
    return found


def main() -> None:
    """Prepare a year day by day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--measured", type=int, default=30)
    parser.add_argument("--events-per-day", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    spans = [
        range(start, start + arguments.measured + 1)
        for start in (FIRST_PREPARED, arguments.days - arguments.measured - 1)
    ]
    times = dict[int, tuple[float, float]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        (folder / "schema.yaml").write_text(json.dumps(schema_document()), encoding="utf-8")
        for number in range(arguments.days):
            write_day(folder / "raw", number, arguments.events_per_day)
            if any(number in span for span in spans):
                end = FIRST + (number + 1) * DAY
                times[number] = timed(prepare_daily.run, config_of(folder, end, "daily"), silent)
                print(f"{end}: {times[number][0]:.2f} s, of the processor {times[number][1]:.2f} s", flush=True)
        end = FIRST + arguments.days * DAY
        scratch = timed(prepare.run, config_of(folder, end, "scratch"), silent)
        print(f"from scratch: {scratch[0]:.2f} s, of the processor {scratch[1]:.2f} s")
    first, last = ([times[number] for number in span[1:]] for span in spans)
    found = {"days": arguments.days, "events_per_day": arguments.events_per_day, **summary(first, last)}
    found |= {"scratch_seconds": scratch[0], "scratch_processor_seconds": scratch[1]}
    found["scratch_ratio"] = scratch[1] / found["last_processor_seconds"]
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value:.6g}" for key, value in found.items()))


if __name__ == "__main__":
    main()
