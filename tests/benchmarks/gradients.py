"""What looking at gradients costs, as shares of a training step, measured in one run.

    python tests/benchmarks/gradients.py [--json] [--rows-scale 0.1] [--device cuda]

The model is DLRM's shape (`dlrm.py`) over 26 tables: 16 wide, batches of 4096, Zipf ids, row-wise Adagrad on
tables and AdamW on the rest. Variants take turns, step by step on the same batches, and are compared by the processor
time of one thread, which other work on the machine disturbs least; on a GPU by the clock, awaited after every step. One
JSON object is printed last:

    gate_overhead             the gate and the judgement that every step passes, over a bare step
    norm_overhead_every_step  norms (of parts, halves and the whole) read and reported in every step, over a step of a
                              loop that never does
    norm_overhead_default     the same at one step in 50: 49 steps of a run that reads them that often, and one with

and, from `frozen_tower.py` beside this file, where the model and the other figures are explained:

    frozen_over_end_to_end    a step with a frozen tower, over one that trains it
    cached_over_end_to_end    the same with the tower's vectors cached, all of them known
"""

import argparse
import collections
import itertools
import json
import statistics

import frozen_tower
import numpy as np
import torch
from dlrm import Dlrm, DlrmShape
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from training_run import NEVER, Repeated, TrainingRun, add_device, moment

from recsys.features.batch import Batch
from recsys.sharding.processes import ProcessContext, start_processes, stop_processes
from recsys.training.objectives.log_loss import log_loss_objective

ROWS = [10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000] + [20_000, 50_000, 100_000] * 3 + [500_000] * 8 + [2_000_000]
DENSE, BATCH, DEFAULT_EVERY, STEPS_A_TURN = 13, 4096, 50, 8
NAMES = [f"c{number}" for number in range(len(ROWS))]


def make_batch(generator: np.random.Generator, scale: float) -> Batch:
    """Draw ids by Zipf's law, bounded by each table's size and scattered over it."""
    ids = []
    for rows in ROWS:
        size = max(2, int(rows * scale))
        rank = np.minimum(size ** generator.random(BATCH), size - 1).astype(np.int64)  # log-uniform: Zipf's exponent 1
        ids.append((rank * 2_654_435_761) % size)
    return Batch(
        dense=torch.from_numpy(generator.standard_normal((BATCH, DENSE), np.float32)),
        sparse=KeyedJaggedTensor(
            keys=NAMES,
            values=torch.from_numpy(np.concatenate(ids)),
            lengths=torch.ones(len(NAMES) * BATCH, dtype=torch.int32),
            length_per_key=[BATCH] * len(NAMES),
        ),
        segment=torch.zeros(BATCH, dtype=torch.int64),
        label=torch.from_numpy((generator.random(BATCH) < 0.25).astype(np.float32)),
        weight=torch.ones(BATCH),
    )


class Variant:
    """One way to train the model.

    Args:
        norms_every: steps from one reading of the norms to the next; None for a bare step without the loop.
    """

    def __init__(self, batches: list[Batch], scale: float, context: ProcessContext, norms_every: int | None) -> None:
        tables = {name: max(2, int(rows * scale)) for name, rows in zip(NAMES, ROWS, strict=True)}
        torch.manual_seed(0)
        self._run = TrainingRun(Dlrm(DlrmShape(tables, DENSE), context.device), context)
        self._batches, self._norms_every = Repeated(batches), norms_every
        self._device = context.device

    def turn(self) -> list[float]:
        """Take some steps and return the seconds of those that neither begin nor end the turn."""
        marks: list[float] = []
        if self._norms_every is None:
            self._bare(marks)
        else:
            reports = self._run.steps(
                self._batches,
                STEPS_A_TURN,
                norms_every=self._norms_every,
                after_step=lambda: marks.append(moment(self._device)),
            )
            collections.deque(reports, maxlen=0)
        return [after - before for before, after in itertools.pairwise(marks)][:-1]

    def _bare(self, marks: list[float]) -> None:
        optimizers = self._run.optimizers
        for step, batch in enumerate(itertools.islice(self._batches, STEPS_A_TURN)):
            optimizers.set_rates(step)
            optimizers.zero_grad()
            log_loss_objective(self._run.wrapped.module, batch).backward()
            optimizers.step(torch.tensor(True, device=self._device))
            marks.append(moment(self._device))


def measure(turns: int, scale: float, device: str) -> dict[str, float]:
    """Return the overheads, from each variant's median step over all its turns but the first."""
    torch.set_num_threads(1)
    context = start_processes(device)
    generator = np.random.default_rng(0)
    batches = [make_batch(generator, scale).to(context.device) for _ in range(8)]
    every = {"bare": None, "loop": NEVER, "norms": 1, "default": DEFAULT_EVERY}
    variants = {name: Variant(batches, scale, context, steps) for name, steps in every.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns):
        for name, variant in variants.items():
            steps = variant.turn()
            seconds[name] += steps if turn else []
    stop_processes()
    # The few steps of "default" that read the norms do not move its median, which is therefore of the other 49.
    bare, loop, norms, between = (statistics.median(seconds[name]) for name in every)
    return {
        "bare_step_ms": 1000 * bare,
        "gate_overhead": loop / bare - 1,
        "norm_overhead_every_step": norms / loop - 1,
        "norm_overhead_default": ((DEFAULT_EVERY - 1) * between + norms) / DEFAULT_EVERY / loop - 1,
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--turns", type=int, default=8, help=f"of {STEPS_A_TURN} steps each")
    parser.add_argument("--rows-scale", type=float, default=0.1, help="of the tables' rows (1: 6.1 million)")
    add_device(parser)
    options = parser.parse_args()
    figures = measure(options.turns, options.rows_scale, options.device)
    figures |= frozen_tower.measure(options.turns, options.device)
    if not options.json:
        for name, value in figures.items():
            print(f"{name:44s} {value:.4f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
