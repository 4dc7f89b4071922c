"""The tests that need a GPU, then the benchmark of it (`gpu.py`): what `make gpu` runs.

    python tests/benchmarks/on_gpu.py

Everything together takes at most eight minutes, whatever the machine: each part has a bound of its own and none runs
past the end of all, so that a part that hangs costs its own figures alone. What a part prints is shown as it comes. One
JSON object is printed last: what `gpu.py` had measured by its end, and what went wrong under "faults". Ends with 0
where every part did what it should, with 1 where one failed or ran out of time, and with 2, at once, where there is no
GPU.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 8 * 60 - 20  # of all parts; the rest is Python's start and what ends late


@dataclass(frozen=True)
class Part:
    """A part: the words after `python`, and the most seconds that it may take."""

    name: str
    words: tuple[str, ...]
    seconds: float


def all_parts(document: Path) -> tuple[Part, Part]:
    """The parts; the second one writes what it measures into a file."""
    # What runs on a CPU alone ran where there was no GPU.
    tests = ("-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider", "--durations=5")
    # Nothing begins after its own limit, and the bound is for what was begun before.
    benchmark = ("tests/benchmarks/gpu.py", "--device", "cuda", "--seconds", "250", "--document", str(document))
    return Part("tests/gpu", tests, 170), Part("tests/benchmarks/gpu.py", benchmark, 290)


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
    machine = describe()
    if machine is None:
        return 2
    print(machine, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder, "figures.json")
        faults = run(all_parts(document), SECONDS)
        figures = json.loads(document.read_text()) if document.exists() else {}
    print("\nEvery part did what it should." if not faults else "\nWent wrong:\n  " + "\n  ".join(faults))
    print(json.dumps({**figures, "faults": faults}))
    return 1 if faults else 0


def describe() -> str | None:
    """Return what this machine is; without a GPU say so instead."""
    sys.path.insert(0, str(ROOT))
    from recsys.sharding.processes import why_no_gpu

    if not torch.cuda.is_available():
        print(f"This needs a machine with an NVIDIA GPU, but {why_no_gpu()}.", file=sys.stderr)
        return None
    properties = torch.cuda.get_device_properties(0)
    return (
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
        f"{len(os.sched_getaffinity(0))} cores; torch {torch.__version__}, Python {sys.version.split()[0]}"
    )


if __name__ == "__main__":
    sys.exit(main())
