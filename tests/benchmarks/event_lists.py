"""How fast rows with long lists of events come out of the stream, beside the plain decoding of the same columns.

    python tests/benchmarks/event_lists.py [--events 50,200] [--elements 15000000] [--cores 2] [--repeats 5] [--json]

A row has a user, an item, a segment, a label, and its last K events as three lists that belong together: ids of a
table of 100,000 rows, and two numbers beside each. One row in five has fewer than K. They lie in files as `recsys
prepare` writes them; there are as many rows as make `--elements` in all lists together.

The limit is pyarrow reading these columns and throwing them away, the faster of row groups at once and columns at
once. Every K is measured in a process of its own, in turns of all contenders, after an untimed one; medians are
printed, of rows per second and of the processor's time per row, which a busy machine changes less. With `--json` the
last line is an object: by K, both over those of the fastest or cheapest decoding.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.datasets.row_encoder import encoded_schema
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.streaming.loader import BatchStream
from recsys.streaming.parquet import encoded_columns

_ITEMS, _USERS = 100_000, 20_000
_LISTS = 3
# As `recsys prepare` makes them; at 200 events one is 10 MB of lists.
_ROWS_PER_GROUP, _ROWS_PER_FILE = 4_096, 16_384
_BATCH_SIZE, _BUFFER_ROWS = 4_096, 16_384


def contract(events: int) -> FeatureContract:
    """Of rows with lists of at most so many events."""
    user, network = ["user_tower"], ["interaction_network"]
    beside: dict[str, Any] = {"kind": "dense_list", "beside": "met", "fill": 0, "used_by": user}
    schema = FeatureSchema.from_document(
        {
            "name": "eventful",
            "features": [
                {"name": "user_id", "kind": "sparse", "used_by": network},
                {"name": "item_id", "kind": "sparse", "used_by": network},
                {"name": "met", "kind": "sparse_list", "table": "item_id", "max_length": events, "used_by": user},
                {"name": "met_rating", "minimum": -5, "maximum": 5, **beside},
                {"name": "met_age", "holds": "age_days", "scale": "log", **beside},
            ],
            "segment": "group",
            "segments": ["a", "b", "c"],
            "label": "liked",
            "time": "at",
            "user": "user_id",
            "item": "item_id",
        }
    )
    return FeatureContract(schema, {"user_id": _USERS, "item_id": _ITEMS}, {}, scaling={})


def make_rows(root: Path, events: int, rows: int) -> None:
    """Write rows in files by day."""
    schema = encoded_schema(contract(events))
    for day, first in enumerate(range(0, rows, _ROWS_PER_FILE)):
        folder = root / "split=train" / f"day={np.datetime64('2011-01-01') + day}"
        folder.mkdir(parents=True)
        table = _table(np.random.default_rng(day), events, first, min(_ROWS_PER_FILE, rows - first))
        pq.write_table(
            table.select(schema.names).cast(schema), folder / "part-0.parquet", compression="zstd",
            row_group_size=_ROWS_PER_GROUP, write_page_checksum=True,
        )  # fmt: skip


def _table(rng: np.random.Generator, events: int, first: int, rows: int) -> pa.Table:
    lengths = np.where(rng.random(rows) < 0.2, rng.integers(0, events + 1, rows), events)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    elements = int(lengths.sum())
    lists = {
        "met": (_ITEMS * rng.random(elements) ** 3).astype(np.int32),
        "met_rating": (rng.integers(1, 6, elements) - rng.integers(20, 45, elements) / 10).astype(np.float32),
        "met_age": np.log1p(rng.exponential(100, elements)).astype(np.float32),
    }
    return pa.table(
        {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in lists.items()}
        | {
            "user_id": pa.array(rng.integers(0, _USERS, rows).astype(np.int32)),
            "item_id": pa.array(rng.integers(0, _ITEMS, rows).astype(np.int32)),
            "segment": pa.array(rng.integers(0, 3, rows).astype(np.int8)),
            "label": pa.array(rng.integers(0, 2, rows).astype(np.float32)),
            "time": pa.array(np.arange(first, first + rows) * 1000, pa.timestamp("us")),
        }
    )


def _decode(root: Path, names: list[str], threads: int, groups_at_once: bool) -> Iterator[int]:
    def read(path: Path, index: int) -> int:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(index, columns=names, use_threads=not groups_at_once).num_rows

    paths = sorted(root.rglob("*.parquet"))
    groups = [(path, index) for path in paths for index in range(pq.read_metadata(path).num_row_groups)]
    with ThreadPoolExecutor(threads if groups_at_once else 1) as executor:
        yield from executor.map(lambda group: read(*group), groups)


def _stream(root: Path, of: FeatureContract, threads: int, shuffle: bool) -> Iterator[int]:
    stream = BatchStream(
        root, "train", of, batch_size=_BATCH_SIZE, seed=1, shuffle=shuffle, shuffle_buffer_rows=_BUFFER_ROWS,
        decode_threads=threads, device=torch.device("cpu"),
    )  # fmt: skip
    yield from map(len, stream)


def measure(events: int, root: Path, cores: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Rows per second and CPU microseconds per row of each contender, medians of some turns."""
    torch.set_num_threads(1)
    pa.set_cpu_count(cores)
    of = contract(events)
    names = list(encoded_columns(of, ()))
    contenders: dict[str, Callable[[], Iterator[int]]] = {
        "decode, row groups at once": partial(_decode, root, names, cores, True),
        "decode, columns at once": partial(_decode, root, names, cores, False),
        "stream": partial(_stream, root, of, cores, False),
        "stream, shuffled": partial(_stream, root, of, cores, True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            began, cpu = time.perf_counter(), time.process_time()
            rows = sum(contender())
            if turn:
                found[name].append((rows / (time.perf_counter() - began), (time.process_time() - cpu) / rows * 1e6))
    return {
        name: (statistics.median(speed for speed, _ in runs), statistics.median(cpu for _, cpu in runs))
        for name, runs in found.items()
    }


def _measured_apart(events: int, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        make_rows(Path(folder), events, options.elements // (_LISTS * events))
        command = [sys.executable, __file__, "--events", str(events), "--root", folder]
        command += ["--cores", str(options.cores), "--repeats", str(options.repeats)]
        # As a command of this project sets it, and here for all alike; see `streaming.py`.
        environment = {"MIMALLOC_PURGE_DELAY": "-1", **os.environ}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", default="50,200", help="the longest list of a row, several between commas")
    parser.add_argument("--elements", type=int, default=15_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    wanted = [int(events) for events in options.events.split(",")]
    if options.root:
        print(json.dumps(measure(wanted[0], options.root, options.cores, options.repeats)))
        return
    ratios = {}
    for events in wanted:
        found = _measured_apart(events, options)
        decoded = [figures for name, figures in found.items() if name.startswith("decode")]
        fastest, cheapest = max(speed for speed, _ in decoded), min(cpu for _, cpu in decoded)
        for name, (speed, cpu) in found.items():
            figures = (
                f"{speed / 1e3:9.1f} k rows/s ({speed / fastest:.2f})  {cpu:7.2f} CPU us/row ({cpu / cheapest:.2f})"
            )
            print(f"{events:4} events  {name:28}{figures}")
        ratios[str(events)] = {
            name: {"rows_per_s": round(speed / fastest, 3), "cpu": round(cpu / cheapest, 3)}
            for name, (speed, cpu) in found.items()
            if name.startswith("stream")
        }
    if options.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main(sys.argv[1:])
