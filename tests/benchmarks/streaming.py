"""How much the stream of batches costs over the plain decoding of the same Parquet columns, and what it leaves peers.

    python tests/benchmarks/streaming.py [--rows 2000000] [--cores 2] [--repeats 5] [--small-rows 400000]
                                         [--memory-rows 2000000] [--only decode,stream] [--json]
                                         [--device cuda]

Makes rows of Criteo's shape (13 dense features, 26 ids in tables of 10 to 2,000,000 rows, two lists of ids of mean
length 8, segment, label), as any writer leaves them: ids of 64 bits, columns that may have nulls, no checksums. The
limit is pyarrow reading these columns and throwing them away, in the fastest of three ways. The stream reads the same
rows as `recsys prepare` encodes them (ids of 32 bits, no nulls, checksums), which makes decoding itself cheaper; so
the decoding of the prepared rows is measured too, as a second and stricter limit.

Every measurement runs in a process of its own on `--cores` cores, in turns, so that a busy machine slows all alike;
medians are printed. Each process reads the rows once untimed and once timed: the first reading also pays for the
process's memory, which is no cost of a row. CPU is user + system time of the process and of those it starts.

Other libraries (`peers.py`) and training (`train_step.py`) take 10 to 100 times as long for a row, so they get
`--small-rows` rows in files of 50,000, and two turns. `memory.py` measures the peaks. `--only` names the kinds to run:
decode, stream, peers, train, memory. With `--device cuda` the stream and the training end on a GPU. `--json` ends with
one JSON object, which has what was run of:

    rows_per_s_over_decode, shuffled_over_decode          rows per second over the fastest decoding's
    cpu_over_decode, shuffled_cpu_over_decode             processor time per row over the cheapest decoding's
    the same four with `_as_prepared` at the end          over decoding the prepared rows
    over_best_peer                                        rows per second over those of the fastest peer
    train_from_parquet_over_memory                        rows per second, training as they come over all in memory
    rss_growth_10x                                        peak memory at ten times `--memory-rows` over that at them
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from criteo_rows import contract, make_rows

from recsys.streaming.loader import BatchStream
from recsys.streaming.parquet import encoded_columns

BATCH_SIZE = 8192

_KINDS = ("decode", "stream", "peers", "train", "memory")
_AS_PREPARED = ", as prepared"
_SLOW_REPEATS = 2

Contender: TypeAlias = Callable[[Path, argparse.Namespace], Iterator[int]]
Results: TypeAlias = dict[str, dict[str, list[dict[str, float]]]]


def _decode(root: Path, column_threads: bool) -> Iterator[int]:
    for path in sorted(root.rglob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                yield file.read_row_group(index, columns=_COLUMNS, use_threads=column_threads).num_rows


def _decode_groups_at_once(root: Path, threads: int) -> Iterator[int]:
    def read(path: Path, index: int) -> int:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(index, columns=_COLUMNS, use_threads=False).num_rows

    groups = []
    for path in sorted(root.rglob("*.parquet")):
        groups += [(path, index) for index in range(pq.read_metadata(path).num_row_groups)]
    with ThreadPoolExecutor(threads) as executor:
        yield from executor.map(lambda group: read(*group), groups)


def _stream(root: Path, threads: int, shuffle: bool, buffer_rows: int, device: str) -> Iterator[int]:
    stream = BatchStream(
        root, "train", contract(), batch_size=BATCH_SIZE, seed=1, shuffle=shuffle, shuffle_buffer_rows=buffer_rows,
        decode_threads=threads, device=torch.device(device),
    )  # fmt: skip
    yield from map(len, stream)
    if device == "cuda":
        torch.cuda.synchronize()


_COLUMNS = list(encoded_columns(contract(), ()))
_DECODERS: dict[str, Contender] = {
    "decode, one thread": lambda root, options: _decode(_generated(root), False),
    "decode, columns at once": lambda root, options: _decode(_generated(root), True),
    "decode, row groups at once": lambda root, options: _decode_groups_at_once(_generated(root), options.cores),
    "decode, one thread, as prepared": lambda root, options: _decode(root, False),
    "decode, columns at once, as prepared": lambda root, options: _decode(root, True),
    "decode, row groups at once, as prepared": lambda root, options: _decode_groups_at_once(root, options.cores),
}
_STREAMS: dict[str, Contender] = {
    "stream": lambda root, options: _stream(root, options.cores, False, 1, options.device),
    "stream, shuffled": lambda root, options: _stream(
        root, options.cores, True, options.shuffle_buffer_rows, options.device
    ),
}


def _generated(root: Path) -> Path:
    """Where the same rows lie as generated."""
    return root.with_name("generated")


def contenders(kind: str) -> dict[str, Contender]:
    """Each reads the rows under a folder once and yields the number in every piece that it gets."""
    # Imported by those who run them: the peers and TorchRec's wrappers take seconds to load, and memory.
    if kind == "peers":
        import peers

        return {name: peers.PEERS[name] for name in peers.PEERS}
    if kind == "train":
        import train_step

        return train_step.TRAINED
    return {"decode": _DECODERS, "stream": _STREAMS}[kind]


def measure_here(kind: str, name: str, root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run one contender in this process: rows, rows per second, CPU microseconds per row, peak resident megabytes."""
    torch.set_num_threads(1)
    pa.set_cpu_count(options.cores)
    contender = contenders(kind)[name]
    sum(contender(root, options))
    before, began = _cpu_seconds(), time.perf_counter()
    rows = sum(contender(root, options))
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - before
    return {
        "rows": rows,
        "rows_per_second": rows / seconds,
        "cpu_us": cpu / rows * 1e6,
        "peak_mb": peak_megabytes(),
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_megabytes() -> float:
    """The most memory that this process has had."""
    # Not by getrusage, which begins with what the parent had when it started this process.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_in_turns(kinds: dict[str, int], root: Path, arguments: list[str]) -> Results:
    """Run every contender of some kinds in new processes, so many times each, in turns; by kind and name."""
    results: Results = {kind: {name: [] for name in contenders(kind)} for kind in kinds}
    for turn in range(max(kinds.values())):
        for kind, measured in results.items():
            for name, runs in measured.items():
                if turn < kinds[kind]:
                    runs.append(_measure_apart(kind, name, root, arguments))
    return results


def _measure_apart(kind: str, name: str, root: Path, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments, "--root", str(root), "--contender", kind, name]
    # As a command of this project sets it, and here for all alike: otherwise pages that were freed a moment ago are
    # given back and cleared anew, the more the longer a busy machine makes their thread wait.
    environment = {"MIMALLOC_PURGE_DELAY": "-1", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"`{name}` failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ratios(results: Results) -> dict[str, float]:
    """What the module's docstring names, of the kinds that were run."""

    def medians(kind: str, figure: str) -> dict[str, float]:
        return {name: statistics.median(run[figure] for run in runs) for name, runs in results.get(kind, {}).items()}

    found = {}
    speed, cpu = medians("stream", "rows_per_second"), medians("stream", "cpu_us")
    if "stream" in results and "decode" in results:
        decode_speed, decode_cpu = medians("decode", "rows_per_second"), medians("decode", "cpu_us")
        for ending in ("", "_as_prepared"):
            names = [name for name in decode_speed if name.endswith(_AS_PREPARED) == bool(ending)]
            fastest, cheapest = max(decode_speed[name] for name in names), min(decode_cpu[name] for name in names)
            found["rows_per_s_over_decode" + ending] = speed["stream"] / fastest
            found["shuffled_over_decode" + ending] = speed["stream, shuffled"] / fastest
            found["cpu_over_decode" + ending] = cpu["stream"] / cheapest
            found["shuffled_cpu_over_decode" + ending] = cpu["stream, shuffled"] / cheapest
    if "stream" in results and results.get("peers"):
        found["over_best_peer"] = speed["stream"] / max(medians("peers", "rows_per_second").values())
    if "train" in results:
        trained = medians("train", "rows_per_second")
        found["train_from_parquet_over_memory"] = trained["train, from Parquet"] / trained["train, from memory"]
    return found


def show(results: Results) -> None:
    """Print a line a contender."""
    print(f"{'':40}{'M rows/s (least, most)':>26}{'CPU us/row (least, most)':>28}{'peak MB':>9}")
    for name, runs in ((name, runs) for measured in results.values() for name, runs in measured.items()):
        cells = []
        for figure, scale, width in (("rows_per_second", 1e-6, 26), ("cpu_us", 1, 28)):
            values = sorted(run[figure] * scale for run in runs)
            cells.append(f"{statistics.median(values):.3f} ({values[0]:.3f}, {values[-1]:.3f})".rjust(width))
        print(f"{name:40}{''.join(cells)}{statistics.median(run['peak_mb'] for run in runs):9.0f}")


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--small-rows", type=int, default=400_000, help="for peers and training")
    parser.add_argument("--memory-rows", type=int, default=2_000_000, help="and ten times as many, for the peaks")
    parser.add_argument("--cores", type=int, default=2, help="cores of each process; also the decoding threads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shuffle-buffer-rows", type=int, default=200_000)
    parser.add_argument("--only", default=",".join(_KINDS), help="kinds to run, between commas")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contender:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
        print(json.dumps(measure_here(*options.contender, options.root, options)))
        return
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(_KINDS):
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {', '.join(_KINDS)}")
    found = _measured(wanted, options, arguments)
    for name, value in found.items():
        print(f"{name:40}{value:8.3f}")
    if options.json:
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))


def _measured(wanted: list[str], options: argparse.Namespace, arguments: list[str]) -> dict[str, float]:
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        root, small = Path(folder, "rows"), Path(folder, "small")
        if fast := {kind: options.repeats for kind in ("decode", "stream") if kind in wanted}:
            make_rows(root, options.rows, generated_root=_generated(root))
            results |= measure_in_turns(fast, root, arguments)
        if slow := {kind: min(options.repeats, _SLOW_REPEATS) for kind in ("peers", "train") if kind in wanted}:
            make_rows(small, options.small_rows, rows_per_file=50_000)
            results |= measure_in_turns(slow, small, arguments)
        show(results)
        if "peers" in wanted:
            import peers

            print(*peers.absent(), sep="\n")
        found = ratios(results)
        if "memory" in wanted:
            import memory

            found["rss_growth_10x"] = memory.growth(Path(folder), options)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
