"""What the project's training step costs over a bare one, and what reading the rows from Parquet adds to it.

    python tests/benchmarks/train_step.py [--rows 500000] [--cores 2] [--repeats 3] [--turns 8] [--json]
                                          [--device cuda]

The rows are those of `criteo_rows.py`: Criteo's shape, 13 dense features, 26 ids in tables of up to 2,000,000 rows and
two lists of ids. The model is DLRM's (`dlrm.py`), 16 wide, batches of 8192, row-wise Adagrad in the tables' fused
kernels and AdamW on the layers. Three ways to train it:

    plain, from memory      TorchRec alone: a DistributedModelParallel, forward, backward, step; nothing is checked,
                            counted, measured or reported
    train, from memory      the project's wrapper, optimizers and loop, as a run has them: every gradient is judged
                            before anything moves, a report every 5 steps, the gradient norms every 50
    train, from Parquet     the same, its batches decoded and shuffled while it trains

They are compared twice. First the two from memory take turns in one process (of 3 GB), a few steps each on the same
batches, by the processor time of one thread, which other work on the machine disturbs least, or on a GPU by the clock,
awaited after every step. Then every way runs in processes of its own with `--cores` cores and as many threads, in
turns; medians are printed, with the least and the most. One JSON object is printed last:

    loop_over_plain                 processor time of the project's step, between readings, over the plain step's
    loop_over_plain_default         the same with a run's usual reports and norms
    train_over_plain                rows per second of "train, from memory" over those of "plain, from memory"
    train_from_parquet_over_memory  rows per second of "train, from Parquet" over those of "train, from memory"
    parquet_cpu_over_memory         processor time per row of the same two
"""

import argparse
import collections
import contextlib
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from criteo_rows import contract, make_rows
from dlrm import Dlrm, DlrmShape
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from training_run import DENSE_RATE, NEVER, TABLE_RATE, Repeated, TrainingRun, add_device, moment

from recsys.features.batch import Batch
from recsys.sharding.processes import ProcessContext, start_processes
from recsys.streaming.loader import BatchStream

BATCH_SIZE, SHUFFLE_BUFFER_ROWS = 8192, 200_000
REPORT_EVERY, NORMS_EVERY = 5, 50  # conf/training/default.yaml's
STEPS_A_TURN, BATCHES_OF_TURNS = 6, 16


class PlainRun:
    """The model as TorchRec alone trains it.

    Attributes:
        model: the module itself, its tables sharded.
    """

    def __init__(self, shape: DlrmShape, device: torch.device) -> None:
        torch.manual_seed(0)
        model, sharder = Dlrm(shape, device), EmbeddingBagCollectionSharder()
        self.model, ebc = model, model.interaction_network.ebc
        _apply_optimizer_in_backward(RowWiseAdagrad, ebc.parameters(), {"lr": TABLE_RATE})
        places = {f"table_{name}": table_wise(rank=0, compute_kernel="fused") for name in shape.tables}
        plan = construct_module_sharding_plan(
            ebc, places, sharder=sharder, local_size=1, world_size=1, device_type=device.type
        )
        self._wrapped = DistributedModelParallel(
            model,
            env=ShardingEnv.from_process_group(dist.group.WORLD),
            device=device,
            plan=ShardingPlan({"interaction_network.ebc": plan}),
            sharders=[sharder],
            init_data_parallel=False,
        )
        model.to(device)
        self._optimizer = torch.optim.AdamW(model.head.parameters(), DENSE_RATE, weight_decay=0.0, fused=True)

    def step(self, batch: Batch) -> None:
        """Take one step."""
        loss = nn.functional.binary_cross_entropy_with_logits(self._wrapped(batch), batch.label)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def train_plain(root: Path, options: argparse.Namespace) -> Iterator[int]:
    """Train one epoch held in memory by TorchRec alone; yield each step's rows."""
    torch.set_num_threads(options.cores)
    run = _plain_run(options.device)
    batches = _epoch_in_memory(root, options.cores, options.device)
    for batch in itertools.islice(Repeated(batches), len(batches)):
        run.step(batch)
        yield len(batch)


def train_from_memory(root: Path, options: argparse.Namespace) -> Iterator[int]:
    """Train one epoch held in memory through the project's loop; yield the rows up to each report."""
    torch.set_num_threads(options.cores)
    batches = _epoch_in_memory(root, options.cores, options.device)
    yield from _looped(Repeated(batches), len(batches), options.device)


def train_from_parquet(root: Path, options: argparse.Namespace) -> Iterator[int]:
    """Train one epoch read from Parquet through the project's loop; yield the rows up to each report."""
    torch.set_num_threads(options.cores)
    stream = _stream(root, options.cores, _context(options.device).device)
    yield from _looped(stream, stream.num_batches, options.device)


TRAINED: dict[str, Callable[[Path, argparse.Namespace], Iterator[int]]] = {
    "train, from memory": train_from_memory,
    "train, from Parquet": train_from_parquet,
}
"""What `streaming.py` times too. The model stands from call to call: an untimed first call pays for it."""

_WAYS = {"plain, from memory": train_plain, **TRAINED}
_TURNS = "turns"


def _looped(stream: Repeated | BatchStream, steps: int, device: str) -> Iterator[int]:
    run = _run(device)
    rows = run.rows_seen
    for report in run.steps(stream, steps, report_every=REPORT_EVERY, norms_every=NORMS_EVERY):
        yield report.rows_seen - rows
        rows = report.rows_seen


@functools.cache
def _context(device: str) -> ProcessContext:
    return start_processes(device)


@functools.cache
def _plain_run(device: str) -> PlainRun:
    return PlainRun(_shape(), _context(device).device)


@functools.cache
def _run(device: str) -> TrainingRun:
    torch.manual_seed(0)
    return TrainingRun(Dlrm(_shape(), _context(device).device), _context(device))


def _shape() -> DlrmShape:
    of = contract()
    tables = {feature.name: of.table_rows[feature.table or feature.name] for feature in of.schema.sparse}
    return DlrmShape(tables, len(of.schema.dense))


def _stream(root: Path, threads: int, device: torch.device) -> BatchStream:
    return BatchStream(
        root,
        "train",
        contract(),
        batch_size=BATCH_SIZE,
        seed=1,
        shuffle=True,
        shuffle_buffer_rows=SHUFFLE_BUFFER_ROWS,
        decode_threads=threads,
        device=device,
    )


@functools.cache
def _epoch_in_memory(root: Path, threads: int, device: str) -> list[Batch]:
    on = _context(device).device
    # Copies: a stream may use a batch's memory again.
    return [batch.take(torch.arange(len(batch), device=on)) for batch in _stream(root, threads, on)]


def measure_turns(root: Path, turns: int, device: str) -> dict[str, list[float]]:
    """Return the microseconds per row of each variant's steps, which take turns in this process."""
    torch.set_num_threads(1)
    batches = Repeated(_epoch_in_memory(root, 1, device)[:BATCHES_OF_TURNS])
    plain, run, on = _plain_run(device), _run(device), _context(device).device

    def plain_turn() -> list[float]:
        marks = []
        for batch in itertools.islice(batches, STEPS_A_TURN):
            plain.step(batch)
            marks.append(moment(on))
        return marks

    def looped_turn(report_every: int, norms_every: int) -> list[float]:
        marks: list[float] = []
        reports = run.steps(
            batches,
            STEPS_A_TURN,
            report_every=report_every,
            norms_every=norms_every,
            after_step=lambda: marks.append(moment(on)),
        )
        collections.deque(reports, maxlen=0)
        return marks

    variants = {
        "plain": plain_turn,
        "between readings": lambda: looped_turn(NEVER, NEVER),
        "with a report": lambda: looped_turn(1, NEVER),
        "with norms": lambda: looped_turn(1, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(1 + turns):  # the first for warmth
        for name, take in variants.items():
            # Neither the step that begins a turn nor the one that ends it, with its last report.
            steps = [after - before for before, after in itertools.pairwise(take())][:-1]
            seconds[name] += steps if turn else []
    return {name: [1e6 / BATCH_SIZE * one for one in steps] for name, steps in seconds.items()}


def _overheads(micros: dict[str, list[float]]) -> dict[str, float]:
    for name, steps in micros.items():
        lower, middle, upper = statistics.quantiles(steps, n=4)
        print(f"{name:24}{middle:8.2f} us per row (quartiles {lower:.2f}, {upper:.2f})")
    plain, between, report, norms = (statistics.median(steps) for steps in micros.values())
    default = between + (report - between) / REPORT_EVERY + (norms - report) / NORMS_EVERY
    return {"loop_over_plain": between / plain, "loop_over_plain_default": default / plain}


def measure_here(options: argparse.Namespace) -> dict[str, float]:
    """Train `options.way` once untimed, once timed: rows per second and CPU microseconds per row of this process."""
    train = _WAYS[options.way]
    pa.set_cpu_count(options.cores)
    sum(train(options.root, options))
    device = _context(options.device).device
    moment(device)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    rows = sum(train(options.root, options))
    moment(device)  # what was asked of a GPU is done
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rows_per_second": rows / seconds, "cpu_us": cpu / rows * 1e6}


def measure_ways(root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run every way `--repeats` times, in turns, each in a process of its own; print medians, return the ratios."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in _WAYS}
    for _ in range(options.repeats):
        for name, measured in results.items():
            measured.append(_in_new_process(name, root, options))
    for name, measured in results.items():
        rates, cpu = (sorted(one[figure] for one in measured) for figure in ("rows_per_second", "cpu_us"))
        print(
            f"{name:24}{statistics.median(rates):8.0f} rows/s ({rates[0]:.0f}, {rates[-1]:.0f})"
            f"{statistics.median(cpu):8.2f} us of CPU per row ({cpu[0]:.2f}, {cpu[-1]:.2f})"
        )
    (plain, memory, parquet), (_, memory_cpu, parquet_cpu) = (
        [statistics.median(one[figure] for one in measured) for measured in results.values()]
        for figure in ("rows_per_second", "cpu_us")
    )
    return {
        "train_over_plain": memory / plain,
        "train_from_parquet_over_memory": parquet / memory,
        "parquet_cpu_over_memory": parquet_cpu / memory_cpu,
    }


def _in_new_process(way: str, root: Path, options: argparse.Namespace) -> Any:
    words = ["--cores", str(options.cores), "--turns", str(options.turns), "--root", str(root), "--way", way]
    words += ["--device", options.device]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{way}` failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="of an epoch")
    parser.add_argument("--cores", type=int, default=2, help="cores of each process; also its threads")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--turns", type=int, default=8, help=f"of {STEPS_A_TURN} steps each; 0 for none")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    add_device(parser)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
        is_turns = options.way == _TURNS
        measured = measure_turns(options.root, options.turns, options.device) if is_turns else measure_here(options)
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        root = Path(folder)
        make_rows(root, options.rows)
        with contextlib.redirect_stdout(nowhere if options.json else sys.stdout):
            # In a process of its own, whose two models are then gone from memory.
            figures = _overheads(_in_new_process(_TURNS, root, options)) if options.turns else {}
            figures |= measure_ways(root, options)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
