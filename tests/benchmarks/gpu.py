"""Training on a GPU: how fast each part is, over TorchRec alone and the chip's limits, and which targets are met.

    python tests/benchmarks/gpu.py [--device cuda] [--small] [--seconds 280] [--only "26 tables"] [--document FILE]

The cases, in this order, each with its ways timed in turns (`gpu_cases.py`):

    26 tables      a DLRM over tables of 10 to 2,000,000 rows: TorchRec alone on batches in the device's memory, the
                   project's loop on them, the same from Parquet, with the gradient norms at every step and at every
                   50th, and the tables alone, for the bandwidth that they reach
    dense half     a DLRM with layers of 1024 numbers: all of it in the loop, and the layers alone, in three precisions
    compositions   a ranker with a tower: conditional with 8 segments and with one, and parallel
    loader         batches from Parquet to the device, and no step
    tower          the ranker end to end, with a frozen tower, and with its vectors cached
    26 tables      again, for every other width and batch size
    compiled       the ranker in bfloat16, its layers compiled and not

A window is some steps, as many as fit into half a second; the device is awaited at its two ends alone. A row's time is
the median of its turns, and its spread what lies between the longest and the shortest, as a share. The idle share is
what torch's profiler saw no kernel and no copy in, over 20 more steps. Peak memory is that of the process, which holds
the models of all ways of a case. The chip's limits are measured first: a copy of 2 GiB, counted as read and written,
and a product of two square matrices.

A row is printed as it is measured, then the targets, then one JSON object, which `--document` sends to a file instead,
anew after every row. What fails is a row with its error; what `--seconds` leaves no time for is not begun. With
`--small` everything is tiny and runs on a CPU in seconds, to see that it does: the figures mean nothing then.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chip_limits import PRECISIONS, copy_rate, product_rate
from gpu_cases import all_cases
from gpu_targets import judged
from timed_windows import Case, DeviceLostError, Row, first_line, measure
from workbench import SMALL, Sizes, Workbench

from recsys.sharding.processes import device_name, start_processes, stop_processes, why_no_gpu

_UNITS = (
    ("step_ms", "{:10.3f} ms"),
    ("spread", "(spread {:4.0%})"),
    ("rows_per_second", "{:12,.0f} rows/s"),
    ("peak_gib", "peak {:.1f} GiB"),
    ("idle_share", "idle {:.1%}"),
    ("idle_between_steps", "between steps {:.1%}"),
    ("table_bandwidth_share", "{:.1%} of the bandwidth"),
    ("dense_flop_share", "{:.1%} of the FLOP rate"),
    ("answered_share", "{:.1%} answered"),
    ("compiled_graphs", "{:.0f} graphs"),
)


class Report:
    """Everything measured so far: printed as it comes, and kept in a file where one is named."""

    def __init__(self, bench: Workbench, document: Path | None) -> None:
        self._bench, self._document, self._began = bench, document, time.monotonic()
        self._device = device_name(bench.device)  # a device that is lost cannot be asked
        self.rows: list[Row] = []
        self.ended: str | None = None

    def add(self, row: Row) -> None:
        """Take a row."""
        self.rows.append(row)
        print(shown(row), flush=True)
        self.write()

    def write(self) -> None:
        """Bring the file up to date."""
        if self._document is not None:
            # Whole or not at all: whoever stops this process reads it.
            beside = self._document.with_suffix(".part")
            beside.write_text(json.dumps(self.figures()))
            beside.replace(self._document)

    def figures(self) -> dict[str, Any]:
        """Return what is printed last."""
        sizes = self._bench.sizes
        return _rounded(
            {
                "device": self._device,
                "torch": torch.__version__,
                "cores": len(os.sched_getaffinity(0)),
                "seconds": time.monotonic() - self._began,
                "ended": self.ended,
                "limits": self._bench.limits,
                "rows": self.rows,
                "targets": judged(self.rows, sizes.width, sizes.batch_size),
            }
        )


def measure_limits(bench: Workbench) -> None:
    """Measure what the chip can do."""
    sizes = bench.sizes
    bench.limits["copy"] = copy_rate(bench.device, sizes.copied_megabytes)
    print(f"{'the chip: copies':60}{bench.limits['copy'] / 1e12:10.3f} TB/s", flush=True)
    for precision in PRECISIONS:
        bench.limits[precision] = product_rate(bench.device, precision, sizes.product_size)
        print(f"{'the chip: products in ' + precision:60}{bench.limits[precision] / 1e12:10.3f} TFLOP/s", flush=True)


def measure_all(bench: Workbench, cases: Iterator[Case], report: Report, seconds: float) -> None:
    """Measure the cases in their order until `seconds` are over or the device is lost."""
    ends = time.monotonic() + seconds
    try:
        for case in cases:
            if time.monotonic() > ends:
                report.ended = f"the {seconds:g} s were over"
                report.add({"case": case.name, **case.about, "way": "", "error": "not begun: time was up"})
                continue
            for row in measure(case, bench.device, bench.sizes.window_seconds, ends):
                report.add(row)
            gc.collect()  # models lie in cycles
    except DeviceLostError as error:
        report.ended = f"the device answers nothing any more: {error}"


def shown(row: Row) -> str:
    """Return a row as a line."""
    sizes = (f"{name.removesuffix('_size')} {value}" for name, value in row.items() if isinstance(value, int))
    heading = f"{', '.join((row['case'], *sizes))}: {row['way']}"
    if "error" in row:
        return f"{heading:80} {row['error']}"
    return f"{heading:80}" + "  ".join(form.format(row[name]) for name, form in _UNITS if name in row)


def main(arguments: list[str]) -> int:
    """Measure and print; 2 where there is no such device, 1 where a way failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=280, help="after which nothing more begins")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--document", type=Path, help="file for the JSON object, written after every row")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"This needs a machine with an NVIDIA GPU, but {why_no_gpu()}.", file=sys.stderr)
        return 2
    began = time.monotonic()
    if options.device == "cpu":
        torch.set_num_threads(1)
    context = start_processes(options.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(context, SMALL if options.small else Sizes(), Path(folder))
        report = Report(bench, options.document)
        try:
            measure_limits(bench)
            bench.make_parquet()
            print(f"rows for the stream: {bench.sizes.parquet_rows:,}, {time.monotonic() - began:.0f} s so far")
            cases = (case for case in all_cases(bench) if case.name.startswith(options.only))
            measure_all(bench, cases, report, options.seconds - (time.monotonic() - began))
        except Exception as error:
            report.ended = first_line(error)
        figures = report.figures()
    for target in figures["targets"]:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[target["is_met"]]
        print(f"{target['name']:55}{target['wanted']:>10}  {target['value']}  {verdict}")
    report.write()
    if options.document is None:
        print(json.dumps(figures), flush=True)
    return int(report.ended is not None or any("error" in row for row in report.rows))


def _rounded(value: Any) -> Any:
    """The value with its floats, at any depth, to four digits."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    code = main(sys.argv[1:])
    stop_processes()
    sys.exit(code)
