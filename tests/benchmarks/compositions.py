"""What compositions with layers of every segment's own cost beside one expert that all rows share.

    python tests/benchmarks/compositions.py [--segments 3 8 32] [--steps 4] [--device cuda]

The rows are the sessions of `frozen_tower.py` in batches of 2048, of as many segments in equal shares; the tower, the
network and every knob are those of `conf/`. Two times are taken, each beside that of the same with one `SegmentExpert`
of the same width for all rows, steps taking turns, by the processor time of one thread (on a GPU by the clock, awaited
after every step):

    step    a training step of the whole ranker, through the project's loop
    alone   the composition by itself: forward, backward, AdamW, on vectors that are there

A line a composition; last one JSON object: {"<composition>/<S>": {"step": ratio, "alone": ratio}}. Ratios of medians.
"""

import argparse
import collections
import itertools
import json
import statistics
from collections.abc import Callable, Sequence

import torch
from frozen_tower import contract, make_batches
from torch import Tensor
from training_run import Repeated, TrainingRun, add_device, moment

from recsys.build import build_ranker
from recsys.composition.branches import Composition, Network, TowerBranch
from recsys.composition.conditional import SegmentExpert
from recsys.composition.parallel import ConcatJoin, ParallelComposition, SumJoin
from recsys.composition.ranker import Head, Ranker
from recsys.config.compose import compose_config
from recsys.features.batch import Batch
from recsys.sharding.processes import ProcessContext, start_processes, stop_processes
from recsys.towers.embedding import TowerSpec

BATCH, BATCHES = 2048, 4
TOWER_WIDTH, WIDTH, EXPERT_HIDDEN = 32, 64, [64]
ON_ONE_BRANCH, NESTED = "conditional", ("shared_residual_expert", "star", "epnet", "ppnet", "segment_linear")
BASE_WIDE, BASE_NARROW = "one shared expert, 128 wide", "one shared expert, 64 wide"
KINDS = {
    ON_ONE_BRANCH: ([], BASE_NARROW),
    **{kind: ([], BASE_WIDE) for kind in NESTED},
    "shared_residual_expert, rank 8": (["composition.rank=8"], BASE_WIDE),
}
"""Overrides of each composition, and what it is held against."""


class OneSharedExpert(Composition):
    """The inner composition's vector through one expert, whatever the row's segment."""

    def __init__(self, inner: Composition) -> None:
        super().__init__(inner.output_width)
        self.inner, self.expert = inner, SegmentExpert(inner.output_width, EXPERT_HIDDEN)

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, D)."""
        return self.expert(self.inner(batch, embedding_tower, interaction_network))


def make(name: str, num_segments: int) -> Ranker:
    """The ranker of `conf/` under a composition of `KINDS`, or under one of the two that they are held against."""
    given = contract(num_segments)
    spec = TowerSpec.two_tower(given.schema, width=TOWER_WIDTH, table_dimension=TOWER_WIDTH, hidden_widths=[64])
    overrides, _ = KINDS.get(name, (["composition=parallel"], ""))
    kind = name.partition(",")[0]
    config = compose_config([*([f"composition={kind}"] if name in KINDS else []), *overrides])
    ranker = build_ranker(config.network, config.composition, spec, given, seed=0)
    if name not in KINDS:
        join = ConcatJoin(WIDTH) if name == BASE_WIDE else SumJoin(WIDTH)
        assert isinstance(ranker.composition, ParallelComposition)
        ranker.composition = OneSharedExpert(ParallelComposition(ranker.composition.projection, join))
        ranker.head = Head(ranker.composition.output_width, [64], 0.0, ranker.head.first_order)
    return ranker


def steps_of(ranker: Ranker, batches: Sequence[Batch], context: ProcessContext) -> Callable[[int], list[float]]:
    """Return what takes some training steps and returns the seconds of each but the first and the last."""
    run, stream = TrainingRun(ranker, context), Repeated(batches)

    def take(count: int) -> list[float]:
        marks: list[float] = []
        reports = run.steps(stream, count + 2, after_step=lambda: marks.append(moment(context.device)))
        collections.deque(reports, maxlen=0)
        return [after - before for before, after in itertools.pairwise(marks)][:-1]

    return take


def passes_of(ranker: Ranker, batches: Sequence[Batch], context: ProcessContext) -> Callable[[int], list[float]]:
    """The same of the composition by itself, with vectors for the tower's and the network's."""
    composition = ranker.composition.to(context.device)
    widths = ranker.embedding_tower.output_width, ranker.interaction_network.output_width
    tower, network = (torch.randn(BATCH, width, device=context.device, requires_grad=True) for width in widths)
    optimizer = torch.optim.AdamW(composition.parameters(), fused=True)

    def one(batch: Batch) -> float:
        began = moment(context.device)
        optimizer.zero_grad()
        joined: Tensor = composition(batch, lambda batch, rows=None: tower, lambda batch, rows=None: network)
        joined.sum().backward()
        optimizer.step()
        return moment(context.device) - began

    def take(count: int) -> list[float]:
        return [one(batch) for batch in itertools.islice(itertools.cycle(batches), count + 1)][1:]

    return take


def measure(num_segments: int, steps: int, context: ProcessContext) -> dict[str, dict[str, float]]:
    """Return the ratios of every composition, by its name."""
    batches = [batch.to(context.device) for batch in make_batches(0, BATCH, BATCHES, num_segments)]
    names = [BASE_WIDE, BASE_NARROW, *KINDS]
    medians: dict[str, dict[str, float]] = {}
    for figure, way, rounds in (("alone", passes_of, 3 * steps), ("step", steps_of, steps)):
        takes = {name: way(make(name, num_segments), batches, context) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(4):
            for name, take in takes.items():
                found = take(max(1, rounds // 4))
                seconds[name] += found if turn else []  # the first for warmth
        medians[figure] = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        name: {figure: each[name] / each[base] for figure, each in medians.items()} for name, (_, base) in KINDS.items()
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[3, 8, 32])
    parser.add_argument("--steps", type=int, default=4, help="of each whole ranker; three times as many passes")
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = start_processes(options.device)
    figures: dict[str, dict[str, float]] = {}
    for num_segments in options.segments:
        for name, ratios in measure(num_segments, options.steps, context).items():
            print(f"S = {num_segments:<4}{name:34}step {ratios['step']:.2f}   alone {ratios['alone']:.2f}", flush=True)
            figures[f"{name}/{num_segments}"] = {figure: round(ratio, 3) for figure, ratio in ratios.items()}
    stop_processes()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
