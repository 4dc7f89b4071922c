"""What it costs to record a run: the same steps with and without tracking, in turns, in one process.

    taskset -c 0,1 python tests/benchmarks/tracking.py [--steps 400] [--pairs 6] [--threads 1] [--json]

The steps are the demo's: its simulated world, its towers and its ranker, batches of 2048 rows held in memory, through
the project's own loop at the default cadence (a report every 5 steps, gradient norms every 50, the tower's gradient by
segment every 100, system metrics every 10 seconds). Steps of other data take longer, and so hide more.

A turn with tracking writes the spool of a run that has begun, while the forwarder's thread sends it to a SQLite store;
the turn is over when everything that it wrote has arrived. A pair of turns takes equally many steps; which of the two
goes first alternates. Printed last is one JSON object:

    tracking_overhead   processor time of the calls that write and of the forwarder's thread, each read from its own
                        thread's clock, over the processor time of the turns without tracking: the figure to trust
    writing_share       of that, the calls that write: all that the training thread itself gives
    paired_cpu          processor time of all threads: median over the pairs of (with - without) / without, which tells
    paired_cpu_low, paired_cpu_high   what else tracking might slow down; and its quartiles
    paired_wall         the same by the clock, for the steps alone; a busy machine adds per cents of noise to both
    milliseconds_per_step   of a turn without tracking, processor time
    points              numbers that arrived in the store, per turn
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.evaluation.baselines import LOGISTIC
from recsys.features.batch import Batch
from recsys.progress import silent
from recsys.run import fitted_baselines as baselines
from recsys.run import prepare, pretrain
from recsys.run.assemble import assemble_ranker, loop_settings, with_ranker_budget
from recsys.run.record import run_params, step_metrics
from recsys.run.streams import ranker_stream, started
from recsys.tracking import names
from recsys.tracking.run import TrackedRun, start_run
from recsys.tracking.spool import LINES
from recsys.tracking.store import TrackingStore
from recsys.training.loop import LoopState, train_steps
from recsys.training.objectives.log_loss import log_loss_objective
from recsys.training.reports import StepReport
from recsys.training.snapshot import BestWeights

_NEVER, _ROWS = 10**9, 60_000
_FORWARDERS = "forward "


@dataclass(frozen=True)
class Turn:
    """What some steps took.

    Attributes:
        cpu_seconds: of all threads, until everything had arrived.
        wall_seconds: of the steps.
        writing_seconds: processor time of the training thread in the calls that write.
        sending_seconds: processor time of the forwarder's thread.
    """

    cpu_seconds: float
    wall_seconds: float
    writing_seconds: float = 0.0
    sending_seconds: float = 0.0


class Steps:
    """The demo's ranker on batches of its world that are held in memory."""

    def __init__(self, folder: Path, threads: int) -> None:
        words = [f"data.raw={folder}/raw", f"runtime.runs={folder}/runs", f"runtime.encoded={folder}/encoded"]
        words += [f"runtime.towers={folder}/towers", f"runtime.threads={threads}", "tower.epochs=1"]
        words += ["runtime.device=cpu"]
        config = compose_config(["experiment=demo", f"data.rows={_ROWS}", *words])
        encoded = prepare.run(config, silent)
        artifact = pretrain.run(config, encoded, silent)
        start = baselines.run(config, encoded, silent)[LOGISTIC]
        self.config: RunConfig = with_ranker_budget(config, encoded)
        self._context = started(self.config)
        stream = ranker_stream(self.config, encoded, self._context)
        # Copies: a stream may use a batch's memory again.
        self._batches = itertools.cycle([batch.take(torch.arange(len(batch))) for batch in stream])
        stream.close()
        self.epoch, self.wait_seconds = 0, 0.0
        self._fitted = assemble_ranker(self.config, artifact, start, encoded, _NEVER, self._context)
        self._settings = loop_settings(self.config.training, _NEVER, encoded.contract.schema.segments)
        self._state = LoopState()

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def take(self, count: int) -> Iterator[StepReport]:
        """Take `count` more steps; yield the reports of them."""
        settings = replace(self._settings, max_steps=self._state.step + count, validate_every=_NEVER, patience=_NEVER)
        self._state.ended = None
        return train_steps(
            self._fitted.wrapped,
            self._fitted.optimizers,
            self,
            log_loss_objective,
            settings,
            self._context,
            state=self._state,
            best=BestWeights(torch.nn.Identity()),
            validate=lambda: {"log_loss": 0.0},
            checkpoint=lambda _: None,
            should_stop=lambda: False,
        )


def turn_without(steps: Steps, count: int) -> Turn:
    """Take the steps, and turn every report into numbers, as a run that records nothing else than its curves does."""
    cpu, wall = time.process_time(), time.perf_counter()
    for report in steps.take(count):
        step_metrics(report)
    return Turn(time.process_time() - cpu, time.perf_counter() - wall)


def turn_with(steps: Steps, count: int, run: TrackedRun) -> Turn:
    """Take the steps, record every report, and wait until all of it has arrived."""
    writing, sending = 0.0, _sending_seconds()
    cpu, wall = time.process_time(), time.perf_counter()
    for report in steps.take(count):
        metrics = step_metrics(report)
        began = time.thread_time()
        run.log_step(report.step, metrics)
        writing += time.thread_time() - began
    wall = time.perf_counter() - wall
    _wait_until_arrived(run)
    return Turn(time.process_time() - cpu, wall, writing, _sending_seconds() - sending)


def _sending_seconds() -> float:
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith(_FORWARDERS)]
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def _wait_until_arrived(run: TrackedRun) -> None:
    written = (run.spool_folder / LINES).stat().st_size
    progress = run.spool_folder / "delivery.json"
    while not progress.exists() or json.loads(progress.read_text())["offset"] < written:
        time.sleep(0.05)


def measure(steps: Steps, store: TrackingStore, pairs: int, count: int) -> dict[str, float]:
    """Take turns, and return what the last line of the output says."""
    for _ in steps.take(count):  # memory is claimed and kernels are chosen
        pass
    without, with_tracking = [], []
    tags = {names.TAG_KIND: "train"}
    with start_run(store, "measured", run_params(steps.config, "measured", "cpu"), tags, system_metrics=True) as run:
        _wait_until_arrived(run)
        for pair in range(pairs):
            for is_tracked in (pair % 2 == 0, pair % 2 == 1):
                if is_tracked:
                    with_tracking.append(turn_with(steps, count, run))
                else:
                    without.append(turn_without(steps, count))
        points = _points(store, run)
    cpu = [mine.cpu_seconds / other.cpu_seconds - 1 for mine, other in zip(with_tracking, without, strict=True)]
    wall = [mine.wall_seconds / other.wall_seconds - 1 for mine, other in zip(with_tracking, without, strict=True)]
    low, _, high = statistics.quantiles(cpu, n=4)
    base = sum(turn.cpu_seconds for turn in without)
    writing = sum(turn.writing_seconds for turn in with_tracking)
    return {
        "tracking_overhead": (writing + sum(turn.sending_seconds for turn in with_tracking)) / base,
        "writing_share": writing / base,
        "paired_cpu": statistics.median(cpu),
        "paired_cpu_low": low,
        "paired_cpu_high": high,
        "paired_wall": statistics.median(wall),
        "milliseconds_per_step": 1000 * base / pairs / count,
        "points": points / pairs,
    }


def _points(store: TrackingStore, run: TrackedRun) -> int:
    client, run_id = store.open(), str(run.run_id)
    metrics = client.get_run(run_id).data.metrics
    return sum(len(client.get_metric_history(run_id, metric)) for metric in metrics)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="steps a turn")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1, help="of the training")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Path(folder), options.threads)
        found = measure(steps, TrackingStore.in_folder(Path(folder), "measured"), options.pairs, options.steps)
    if not options.json:
        print(f"{options.pairs} pairs of {options.steps} steps, {options.threads} threads, {os.cpu_count()} cores")
        for name, value in found.items():
            print(f"{name:<26} {value:,.1f}" if value > 1 else f"{name:<26} {value:+.2%}")
    print(json.dumps({name: round(value, 5) for name, value in found.items()}))


if __name__ == "__main__":
    main()
