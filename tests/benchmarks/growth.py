"""How time and memory grow, per row and per process, as rows, tables and processes become more, on the CPU.

    python tests/benchmarks/growth.py [--rows 1000000 10000000 100000000] [--table-rows 1000000 10000000 50000000]
        [--processes 1 2 4] [--prepared 1000000 10000000] [--batch 4096] [--steps 100] [--most-memory-gb 12]
        [--results FILE] [--plot FILE] [--json]

Rows grow beside the smallest tables, tables beside the fewest rows. Each case is one start of torchrun: the ranker is
built, sharded and copied as before a first validation; `--steps` steps are taken, which are a small part of an epoch of
many rows; a checkpoint is written; then all rows are read once, shuffled, and trained on by nobody. Beyond ten million
rows the same files lie under further names, so that they cost no disk. `--prepared` simulates as many raw rows and
prepares them (`tests/benchmarks/preparation.py`), which is one process's work however many train. Last come what one
process does for all, or all do alike, by `growth_constants.py`.

A phase has seconds of the clock, of the processors, and a peak of resident memory of its own. Where there are more
processes than cores the clock's seconds say nothing of as many machines; the processors' seconds per row, and bytes,
do. Of the processes of a case the one with most counts. A case that would need more than `--most-memory-gb` in all, as
estimated from the whole tables that every process builds at its start, is left out. With --results measured cases are
kept in a file, and not measured again; --plot draws them; --json prints them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import preparation
from growth_constants import constants
from growth_plot import draw
from growth_process import ROWS_OF_A_FILE, WIDTH, Case, link_rows, make_files

from recsys.datasets.simulator import simulate
from recsys.datasets.world import World

_MADE_FILES = 10
_COPIES_AT_START = 3.2  # of the whole tables, in every process: measured on tables of 10M rows
_COPIES_IN_TRAINING = 4.2  # of all processes together: weights, the best ones, and a checkpoint's copy of both
_LIBRARIES_GB = 0.6
Results = dict[str, dict[str, Any]]


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Rows grow beside the smallest tables, tables beside the fewest rows; the small ones first."""
    grown = [(rows, min(options.table_rows)) for rows in sorted(options.rows)]
    grown += [(min(options.rows), table_rows) for table_rows in sorted(options.table_rows)[1:]]
    return [Case(rows, table_rows, size) for rows, table_rows in grown for size in sorted(options.processes)]


def name_of(case: Case) -> str:
    """What a case is called in the results: rows, table rows, processes."""
    return "/".join(map(str, astuple(case)))


def gigabytes_of(case: Case) -> float:
    """About what all processes of a case need, at their start or with a checkpoint under way."""
    tables = case.table_rows * WIDTH * 4 / 2**30
    return case.processes * _LIBRARIES_GB + tables * max(case.processes * _COPIES_AT_START, _COPIES_IN_TRAINING)


def measured(case: Case, files: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start a case's processes and return their numbers: of each the most in any process, and sums of bytes."""
    made = files / str(case.table_rows)
    if not made.exists():
        grows = case.table_rows == min(options.table_rows)
        make_files(made, case.table_rows, min(_MADE_FILES, max(options.rows) // ROWS_OF_A_FILE) if grows else 1)
    root, own = scratch / "rows", scratch / "own"
    own.mkdir(parents=True)
    link_rows(made, root, case.rows)
    names = ("rows", "table_rows", "processes")
    arguments = [f"--{name.replace('_', '-')}={getattr(case, name)}" for name in names]
    arguments += [f"--batch={options.batch}", f"--steps={options.steps}", f"--root={root}", f"--scratch={own}"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"]
    script = Path(__file__).with_name("growth_process.py")
    subprocess.run([sys.executable, *launcher, str(script), *arguments], check=True)
    each = [json.loads((own / f"rank-{rank}.json").read_text()) for rank in range(case.processes)]
    shutil.rmtree(scratch)
    file_bytes = sum(path.stat().st_size for path in made.glob("*.parquet"))
    stored = file_bytes / len(list(made.glob("*.parquet"))) / ROWS_OF_A_FILE
    return {name: max(one[name] for one in each) for name in each[0]} | {"stored_bytes_per_row": stored}


def prepared(rows: int, scratch: Path) -> dict[str, Any]:
    """Simulate raw rows, prepare them in a process of its own, and return what that took."""
    simulate(scratch / "raw", World(rows=rows, users=rows // 25, items=50_000, days=40, seed=0, world_seed=0))
    command = [sys.executable, preparation.__file__, "--measure", "recsys", "--cores", "2"]
    command += ["--data", str(scratch / "raw"), "--target", str(scratch / "target")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(scratch)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


HEAD = (
    "| rows | table rows | processes | reading, us a row | MB | training, us a row | MB | tables, MB | start, MB "
    "| checkpoint, MB | s |\n" + "|---" * 11 + "|"
)


def line_of(name: str, found: dict[str, Any]) -> str:
    """A case's numbers as a line of a Markdown table; seconds are of the processors, rows are a process's own."""
    rows, table_rows, processes = (int(each) for each in name.split("/"))
    read, trained = (1e6 * found[f"{each}_cpu_seconds"] / found[f"{each}_rows"] for each in ("pass", "train"))
    return (
        f"| {rows // 10**6}M | {table_rows // 10**6}M | {processes} | {read:.2f} | {found['pass_mb']:,.0f} "
        f"| {trained:.1f} | {found['train_mb']:,.0f} | {found['table_mb'] + found['accumulator_mb']:,.0f} "
        f"| {found['start_mb']:,.0f} | {found['checkpoint_mb']:,.0f} | {found['checkpoint_cpu_seconds']:.1f} |"
    )


def main() -> None:
    """Measure what is not measured yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--table-rows", type=int, nargs="+", default=[10**6, 10**7, 5 * 10**7])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--prepared", type=int, nargs="*", default=[10**6, 10**7])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--most-memory-gb", type=float, default=12.0)
    parser.add_argument("--constants", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kept = options.results is not None and options.results.exists()
    results: Results = json.loads(options.results.read_text()) if kept else {}

    def keep(name: str, found: dict[str, Any]) -> None:
        results[name] = found
        if options.results is not None:
            options.results.write_text(json.dumps(results, indent=1))

    with tempfile.TemporaryDirectory() as folder:
        for case in cases_of(options):
            if name_of(case) in results:
                continue
            if gigabytes_of(case) > options.most_memory_gb:
                print(f"{name_of(case)}: left out, would need about {gigabytes_of(case):.0f} GB", file=sys.stderr)
                continue
            found = measured(case, Path(folder, "files"), Path(folder, "case"), options)
            keep(name_of(case), found | {"steps": options.steps})
        for rows in options.prepared:
            if f"prepared/{rows}" not in results:
                keep(f"prepared/{rows}", prepared(rows, Path(folder, "prepared")))
        if options.constants and "constants" not in results:
            keep("constants", constants(Path(folder, "constants")))
    print(HEAD)
    for name in [name_of(case) for case in cases_of(options) if name_of(case) in results]:
        print(line_of(name, results[name]))
    for rows in options.prepared:
        found = results[f"prepared/{rows}"]
        print(f"prepared {rows:,} rows: {1e6 * found['cpu_seconds'] / rows:.2f} us/row, {found['peak_mb']:,.0f} MB")
    if "constants" in results:
        print("  ".join(f"{name} {value:.3g}" for name, value in results["constants"].items()))
    if options.plot is not None:
        draw(results, options.plot)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
