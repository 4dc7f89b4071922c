"""What a folder of Parquet files holds, what the loader would do with it, and what to write otherwise."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.config import RunConfig
from recsys.inspection.advice import advise, plan_loading, read_sample
from recsys.inspection.footers import inspect_parquet
from recsys.progress import Progress, silent
from recsys.run.assemble import with_budget
from recsys.run.batch_size import LARGEST
from recsys.run.streams import decode_threads

from .console import console, progress_bars, show_table

_FEW = 8


def run(path: Path, config: RunConfig, progress: Progress) -> dict[str, Any]:
    """Inspect, plan with the configured training settings, and advise; return everything found, as JSON values.

    Raises:
        DataError: no Parquet there, none with rows, or a damaged file; names it.
    """
    facts = inspect_parquet(path, progress)
    training = with_budget(config.training, facts.rows, config.training.largest_batch or LARGEST)
    settings = {name: getattr(training, name) for name in ("batch_size", "shuffle_buffer_rows")}
    settings["decode_threads"] = decode_threads(config)
    progress("read a sample and write it in other ways", 0, 1)
    sample = read_sample(facts)
    measured = advise(facts, sample)
    progress("read a sample and write it in other ways", 1, 1)
    plans = {
        split: asdict(plan_loading(group_rows, **settings, bytes_per_row=sample.nbytes / sample.num_rows))
        for split, group_rows in facts.splits.items()
    }
    found = {"settings": settings, "loader": plans, "sample_rows": sample.num_rows}
    return facts.summary() | found | asdict(measured)


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Inspect and print."""
    if arguments.json:
        sys.stdout.write(json.dumps(run(Path(arguments.path), config, silent), indent=2) + "\n")
        return
    with progress_bars() as progress:
        found = run(Path(arguments.path), config, progress)
    path, rows, files, size = (found[name] for name in ("path", "rows", "files", "bytes"))
    least, middle, most = found["row_group_rows"].values()
    _say(
        f"{path}: {rows:,} rows in {files:,} files of {size / 1e6:,.1f} MB ({size / rows:.1f} bytes a row); "
        f"{found['row_groups']:,} row groups of {least:,} to {most:,} rows, the middle one {middle:,}"
    )
    for name, values in found["partitions"].items():
        _say(f"partition {name}: {len(values):,} values, {values[0]} to {values[-1]}")
    for other in found["other_files"][:_FEW]:
        _say(f"left aside, as its columns are others: {other}")
    _show("Columns", {column.pop("path"): {**column, "is_read": str(column["is_read"])} for column in found["columns"]})
    settings = ", ".join(f"{name}={value}" for name, value in found["settings"].items())
    _show(f"An epoch of the loader (training: {settings}); memory at most", found["loader"])
    costs = {"as it is": found["cost_now"]}
    for number, advice in enumerate(found["advice"], start=1):
        _say(f"{number}. {advice['subject']}: {advice['found']}.\n   Mend: {advice['do']}.")
        costs[f"advice 1 to {number}" if number > 1 else "advice 1"] = advice["after"]
    if not found["advice"]:
        _say("Nothing to advise: the rows are written well.")
    title = f"The same {found['sample_rows']:,} rows, decoded here in one thread; every codec in the row groups advised"
    _show(title, costs | found["cost_by_codec"])


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table under the names that the JSON has."""
    header = ("", *(name.replace("_", " ") for name in next(iter(rows.values()))))
    show_table(title, header, [(key or "all", *map(_cell, row.values())) for key, row in rows.items()])


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
    return value if isinstance(value, str) else ", ".join(value)
