"""The peak memory of a stream over some rows, and over ten times as many.

    python tests/benchmarks/memory.py [--memory-rows 2000000] [--cores 2] [--shuffle-buffer-rows 200000]

Three ways in which rows may lie: row groups as `recsys prepare` writes them, one huge row group a file, and small files
of 400 rows. The ten times as many rows are the same files under ten names each, so that they cost no disk. Each
measurement is one shuffled epoch in a process of its own. Prints the peaks and their ratio.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from criteo_rows import contract, make_rows
from streaming import BATCH_SIZE, peak_megabytes

from recsys.streaming.loader import BatchStream

SMALL_FILE_ROWS = 400
# File systems allow a file a limited number of names: ext4 65,000.
_MOST_NAMES = 10_000


def growth(folder: Path, options: argparse.Namespace) -> float:
    """Print the peaks in megabytes; return the largest ratio of ten times the rows over `options.memory_rows`."""
    layouts: dict[str, Callable[[Path], int]] = {
        "row groups of 100,000": lambda root: _made(root, options.memory_rows, options.memory_rows, 100_000),
        "one huge row group a file": lambda root: _made(
            root, options.memory_rows, options.memory_rows, options.memory_rows
        ),
        "files of 400 rows": lambda root: _made(root, SMALL_FILE_ROWS, options.memory_rows, SMALL_FILE_ROWS),
    }
    ratios = []
    for number, (name, make) in enumerate(layouts.items()):
        original = folder / f"original-{number}"
        copies = make(original)
        peaks = []
        for times in (1, 10):
            root = folder / f"memory-{number}-{times}"
            _link(next(original.rglob("*.parquet")), root, copies * times)
            peaks.append(_peak_apart(root, options))
        ratios.append(peaks[1] / peaks[0])
        print(f"{name:32}{peaks[0]:8.0f} MB, ten times the rows {peaks[1]:8.0f} MB: {ratios[-1]:.3f}")
    return max(ratios)


def _made(root: Path, rows: int, rows_in_all: int, rows_per_group: int) -> int:
    """Write one file; return how often it is needed."""
    make_rows(root, rows, rows_per_file=rows, rows_per_group=rows_per_group)
    return rows_in_all // rows


def _link(file: Path, root: Path, times: int) -> None:
    for number in range(times):
        folder = root / "split=train" / f"day={np.datetime64('2011-01-01') + number // 1000}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % _MOST_NAMES == 0:
            original = folder / f"part-{number}.parquet"
            original.write_bytes(file.read_bytes())
        else:
            os.link(original, folder / f"part-{number}.parquet")


def _peak_apart(root: Path, options: argparse.Namespace) -> float:
    settings = ["--cores", str(options.cores), "--shuffle-buffer-rows", str(options.shuffle_buffer_rows)]
    command = [sys.executable, __file__, *settings, "--root", str(root)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def _peak_here(root: Path, options: argparse.Namespace) -> float:
    torch.set_num_threads(1)
    stream = BatchStream(
        root, "train", contract(), batch_size=BATCH_SIZE, seed=1, shuffle=True,
        shuffle_buffer_rows=options.shuffle_buffer_rows, decode_threads=options.cores, device=torch.device("cpu"),
    )  # fmt: skip
    assert sum(map(len, stream)) == stream.num_rows
    return peak_megabytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-rows", type=int, default=2_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--shuffle-buffer-rows", type=int, default=200_000)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.root:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
        print(_peak_here(options.root, options))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"rss_growth_10x": round(growth(Path(folder), options), 3)}))


if __name__ == "__main__":
    main()
