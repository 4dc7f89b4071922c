"""What it costs to read rows from afar, to check their values, and to check many files before the first batch.

    python tests/benchmarks/reading.py [--rows 4000000] [--cores 2] [--repeats 5] [--files 100000] [--json]

Three measurements on rows of Criteo's shape (see `streaming.py`), each in processes of their own on `--cores` cores:

- a stream over storage whose every request takes `--delay` seconds, over the same storage without the delay: rows per
  second of an epoch, the wait for its first bytes included. The same without reading ahead is printed for comparison.
- a stream with the checks of values over one without, and decoding likewise: CPU time, in turns within one process.
- every footer of `--files` files found, read and checked: seconds, CPU time, and megabytes beyond those of one file.

Medians are printed, and the least and greatest; a JSON object comes last with `--json`.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pyarrow as pa
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recsys.features.account import Account
from recsys.streaming import read_ahead, rows
from recsys.streaming.checks import ValueChecks
from recsys.streaming.loader import BatchStream
from recsys.streaming.parquet import encoded_columns, read_row_group
from recsys.streaming.rows import open_rows
from tests.benchmarks.criteo_rows import contract, make_rows
from tests.benchmarks.streaming import BATCH_SIZE
from tests.streaming.slow_storage import SlowStorage


def stream_seconds(root: Path, options: argparse.Namespace, delay_seconds: float, ahead: bool) -> dict[str, float]:
    """Read one epoch through storage with that delay, after one without; with or without reading ahead."""
    storage = SlowStorage(root, delay_seconds)
    with mock.patch.object(rows, "open_folder", return_value=storage.folder):
        stream = BatchStream(
            "slow://bucket", "train", contract(), batch_size=BATCH_SIZE, seed=1, shuffle=True, shuffle_buffer_rows=1,
            decode_threads=options.cores, device=torch.device("cpu"),
        )  # fmt: skip
    if not ahead:
        read_ahead.ReadAhead._begin_more = lambda self: None  # type: ignore[method-assign]
    storage._delay = 0
    sum(map(len, stream))
    storage._delay, storage.requests = delay_seconds, []
    began = time.perf_counter()
    count = sum(map(len, stream))
    seconds = time.perf_counter() - began
    return {"rows_per_second": count / seconds, "requests": len(storage.requests), "at_once": storage.most_at_once}


def stream_cost(root: Path, options: argparse.Namespace, checked: bool) -> dict[str, float]:
    """CPU seconds of streaming every row, after having done so once; with the checks of values or without them."""
    stream = BatchStream(
        root, "train", contract(), batch_size=BATCH_SIZE, seed=1, shuffle=False, shuffle_buffer_rows=1,
        decode_threads=options.cores, device=torch.device("cpu"),
    )  # fmt: skip
    if not checked:
        rows._EncodedColumns.encoded = lambda self, path, columns, account: columns  # type: ignore[method-assign]
    return {"cpu_seconds": warm_cpu_seconds_of(lambda: sum(map(len, stream)))}


def decode_cost(root: Path, options: argparse.Namespace, checked: bool) -> dict[str, float]:
    """CPU seconds of decoding every row, after having done so once; with the checks of values or without them."""
    columns, checks = list(encoded_columns(contract(), ())), ValueChecks(contract())
    groups = open_rows(root, "train", contract(), (), ()).groups

    def decode() -> None:
        for group in groups:
            decoded = read_row_group(group, columns)
            if checked:
                checks.checked(decoded, Account(f"{group}, ", {}, group.rows))

    return {"cpu_seconds": warm_cpu_seconds_of(decode)}


def footer_cost(root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Find and check every file of a folder of links to one file."""
    before, cpu, began = peak_megabytes(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    groups = open_rows(root, "train", contract(), (), ()).groups
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "files": len({group.path for group in groups}),
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime,
        "megabytes": peak_megabytes() - before,
    }


def warm_cpu_seconds_of(work: Callable[[], object]) -> float:
    """CPU time of this process while it works, once it has the memory that the work takes."""
    work()
    began = time.process_time()
    work()
    return time.process_time() - began


def peak_megabytes() -> float:
    """Most resident memory that this process ever had."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


_MEASUREMENTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, float]]] = {
    "without delay": lambda root, options: stream_seconds(root, options, 0, ahead=True),
    "with delay": lambda root, options: stream_seconds(root, options, options.delay, ahead=True),
    "with delay, not read ahead": lambda root, options: stream_seconds(root, options, options.delay, ahead=False),
    "stream, unchecked": lambda root, options: stream_cost(root, options, checked=False),
    "stream": lambda root, options: stream_cost(root, options, checked=True),
    "decode, unchecked": lambda root, options: decode_cost(root, options, checked=False),
    "decode": lambda root, options: decode_cost(root, options, checked=True),
    "footers": footer_cost,
}


def measured(name: str, root: Path, arguments: list[str]) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--root", str(root), "--measurement", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{name}` failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def link_many(root: Path, files: int) -> None:
    """Make a folder of `files` names for small files, 1,000 to a day."""
    make_rows(root / "one", 1000)
    (small,) = (root / "one").rglob("*.parquet")
    for number in range(files):
        folder = root / "many" / "split=train" / f"day={number // 1000:03}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
            # A file system bounds how many names a file may have.
            shutil.copy(small, folder / "part-0.parquet")
        else:
            os.link(folder / "part-0.parquet", folder / f"part-{number % 1000}.parquet")


def spread(values: list[float]) -> str:
    """The median, and the least and greatest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Measure everything and print it."""
    options = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    torch.set_num_threads(1)
    pa.set_cpu_count(options.cores)
    if options.measurement:
        print(json.dumps(_MEASUREMENTS[options.measurement](Path(options.root), options)))
        return
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    with tempfile.TemporaryDirectory(prefix="recsys-reading-") as folder:
        root = Path(folder)
        make_rows(root / "rows", options.rows)
        names = list(_MEASUREMENTS)[:3]
        found = [{name: measured(name, root / "rows", arguments) for name in names} for _ in range(options.repeats)]
        ratios = {
            name: [turn[name]["rows_per_second"] / turn["without delay"]["rows_per_second"] for turn in found]
            for name in names[1:]
        }
        for name in names:
            turns = [turn[name] for turn in found]
            print(f"{name}: {statistics.median(t['rows_per_second'] for t in turns):,.0f} rows/s, "
                  f"{turns[0]['requests']} requests, at most {max(t['at_once'] for t in turns)} at once")  # fmt: skip
        for name, values in ratios.items():
            print(f"{name}, over without delay: {spread(values)}")
        names = list(_MEASUREMENTS)[3:7]
        found = [{name: measured(name, root / "rows", arguments) for name in names} for _ in range(options.repeats)]
        over_stream, over_decode = (
            [turn[what]["cpu_seconds"] / turn[f"{what}, unchecked"]["cpu_seconds"] for turn in found]
            for what in ("stream", "decode")
        )
        print(
            f"CPU time with checks over without: {spread(over_stream)} of a stream, {spread(over_decode)} of decoding"
        )
        link_many(root, options.files)
        footers = measured("footers", root / "many", arguments)
        print(f"{footers['files']:,} footers: {footers['seconds']:.1f} s, {footers['cpu_seconds']:.1f} s of CPU, "
              f"{footers['megabytes']:.0f} MB")  # fmt: skip
    if options.json:
        summary = {
            "delayed_over_undelayed": statistics.median(ratios["with delay"]),
            "not_read_ahead_over_undelayed": statistics.median(ratios["with delay, not read ahead"]),
            "checked_cpu_over_stream": statistics.median(over_stream),
            "checked_cpu_over_decode": statistics.median(over_decode),
            "footers": footers,
        }
        print(json.dumps(summary))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds of every request")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--measurement", choices=list(_MEASUREMENTS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
