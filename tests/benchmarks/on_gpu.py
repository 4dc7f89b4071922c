"""The tests that need a GPU, then short versions of the benchmarks on it: what `make gpu` runs.

    python tests/benchmarks/on_gpu.py

Everything together takes at most eight minutes, whatever the machine: each part has a bound of its own and none runs
past the end of all, so that a part that hangs costs its own figures alone. What a part prints is shown as it comes.
Ends with 0 where every part did what it should, with 1 where one failed or ran out of time, and with 2, at once, where
there is no GPU.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 8 * 60 - 20  # of all parts; the rest is Python's start and what ends late
_BENCHMARKS = Path("tests", "benchmarks")


@dataclass(frozen=True)
class Part:
    """A part: the words after `python`, and the most seconds that it may take."""

    name: str
    words: tuple[str, ...]
    seconds: float


def _benchmark(file: str, seconds: float, *words: str) -> Part:
    return Part(file, (str(_BENCHMARKS / f"{file}.py"), "--device", "cuda", *words), seconds)


PARTS = (
    Part("tests/gpu", ("-m", "pytest", "tests/gpu", "-p", "no:cacheprovider", "--durations=5"), 210),
    _benchmark("train_step", 140, "--rows", "400000", "--cores", "8", "--repeats", "1", "--turns", "4"),
    _benchmark("gradients", 110, "--turns", "4"),
    _benchmark(
        "streaming", 80, "--rows", "1000000", "--cores", "8", "--repeats", "1", "--only", "decode,stream", "--json"
    ),
)


def run(parts: Sequence[Part], seconds: float) -> list[str]:
    """Run the parts one after another, all within `seconds`; return what there is to say of those that went wrong."""
    ends, faults = time.monotonic() + seconds, []
    # Behind the recsys of this clone, where none is installed.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    for part in parts:
        allowed = min(part.seconds, ends - time.monotonic())
        if allowed <= 0:
            faults.append(f"{part.name}: not begun, the {seconds:.0f} s of all parts were over")
            continue
        print(f"\n== {part.name}: {' '.join(('python', *part.words))} (at most {allowed:.0f} s)", flush=True)
        began = time.monotonic()
        command = [sys.executable, *part.words]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            if code := process.wait(allowed):
                faults.append(f"{part.name}: ended with {code}")
        except subprocess.TimeoutExpired:
            faults.append(f"{part.name}: stopped after {allowed:.0f} s")
        finally:
            # And with it what it started: a process left behind would hold the GPU's memory.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(f"== {part.name}: {time.monotonic() - began:.0f} s", flush=True)
    return faults


def main() -> int:
    """Say what this machine is, run everything, and sum up."""
    sys.path.insert(0, str(ROOT))
    from recsys.sharding.processes import why_no_gpu

    if not torch.cuda.is_available():
        print(f"This needs a machine with an NVIDIA GPU, but {why_no_gpu()}.", file=sys.stderr)
        return 2
    properties = torch.cuda.get_device_properties(0)
    print(
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
        f"{len(os.sched_getaffinity(0))} cores; torch {torch.__version__}, Python {sys.version.split()[0]}"
    )
    faults = run(PARTS, SECONDS)
    print("\nEvery part did what it should." if not faults else "\nWent wrong:\n  " + "\n  ".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
