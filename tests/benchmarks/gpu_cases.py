"""The cases of `gpu.py`, most telling first: which models, on which batches, in which ways."""

import collections
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import frozen_tower
import torch
from chip_limits import products_in
from dlrm import Dlrm
from frozen_tower import MODES, Variant, make_batches, make_ranker, side_by_side
from timed_windows import Case, Way
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_run import DENSE_RATE, Repeated, TrainingRun
from workbench import Workbench, moved_bytes

from recsys.composition.branches import BranchProjection
from recsys.composition.conditional import SegmentGatedComposition
from recsys.features.batch import Batch

TABLES, DENSE, COMPOSITIONS, LOADER, MODES_OF_TOWER = "26 tables", "dense half", "compositions", "loader", "tower"
BARE, OURS, PARQUET, TABLES_ALONE = "bare TorchRec", "ours", "ours, from Parquet", "tables alone"
NORMS_EVERY_STEP, NORMS_BY_DEFAULT = "ours, norms every step", "ours, norms by default"
CONDITIONAL, SHARED = "conditional", "conditional, one shared expert"
ALONE = "dense half alone"
EXPERT_HIDDEN = [64]  # conf/composition/conditional.yaml's
_MIDDLE_SECONDS, _LONGEST_SECONDS = 30, 60

Take = Callable[[int, Callable[[], None]], None]


def all_cases(bench: Workbench) -> Iterator[Case]:
    """Yield every case."""
    sizes = bench.sizes
    yield _tables(bench, sizes.width, sizes.batch_size, _LONGEST_SECONDS, sizes.turns + 2)
    of_batch = {"batch_size": sizes.batch_size}
    dense = {"width": sizes.width, **of_batch, "layers": sizes.dense_top[0]}
    yield Case(DENSE, dense, partial(_dense_ways, bench), _MIDDLE_SECONDS, sizes.turns)
    segments = {**of_batch, "segments": sizes.segments}
    yield Case(COMPOSITIONS, segments, partial(_composition_ways, bench), _MIDDLE_SECONDS, sizes.turns)
    yield Case(LOADER, of_batch, partial(_loader_ways, bench), _MIDDLE_SECONDS, sizes.turns)
    yield Case(MODES_OF_TOWER, of_batch, partial(_mode_ways, bench), _MIDDLE_SECONDS, sizes.turns)
    # The widest first, whose models are there already.
    for width in (sizes.width, *sizes.widths[:-1]):
        for batch_size in sizes.batches:
            if (width, batch_size) != (sizes.width, sizes.batch_size):
                yield _tables(bench, width, batch_size, _MIDDLE_SECONDS, sizes.turns)


def _tables(bench: Workbench, width: int, batch_size: int, seconds: float, turns: int) -> Case:
    about = {"width": width, "batch_size": batch_size}
    return Case(TABLES, about, partial(_table_ways, bench, width, batch_size), seconds, turns)


def _table_ways(bench: Workbench, width: int, batch_size: int) -> Sequence[Way]:
    (plain, run), batches, sizes = bench.models(width), bench.batches(batch_size), bench.sizes
    stream, skip = Repeated(batches), _steps_to_fill(bench, batch_size)
    num_tables = len(bench.contract.table_rows)
    gradient = torch.full((batch_size, num_tables * width), 1e-6, device=bench.device)

    def bandwidth(seconds: float) -> dict[str, float]:
        rate = sum(moved_bytes(batch, num_tables, width) for batch in batches) / len(batches) / seconds
        return {"table_bandwidth_share": rate / bench.limits["copy"]}

    def look_up_and_update(batch: Batch) -> None:
        plain.model.interaction_network.ebc(batch.sparse).values().backward(gradient)

    return [
        Way(BARE, _each(stream, plain.step), batch_size, is_profiled=True),
        Way(OURS, _looped(run, stream), batch_size, is_profiled=True),
        Way(
            PARQUET,
            _from_parquet(bench, run, batch_size),
            batch_size,
            skip=skip,
            most=sizes.parquet_rows // batch_size - skip - 1,
            is_profiled=True,
        ),
        Way(NORMS_EVERY_STEP, _looped(run, stream, norms_every=1), batch_size),
        Way(
            NORMS_BY_DEFAULT,
            _looped(run, stream, norms_every=sizes.norms_every),
            batch_size,
            multiple=sizes.norms_every,
        ),
        Way(TABLES_ALONE, _each(stream, look_up_and_update), batch_size, figures=bandwidth),
    ]


def _dense_ways(bench: Workbench) -> Iterator[Way]:
    """A DLRM with wide layers: its dense half, and all of it in the loop, in every precision."""
    sizes = bench.sizes
    torch.manual_seed(0)
    run = TrainingRun(Dlrm(replace(bench.shape(sizes.width), top=sizes.dense_top), bench.device), bench.context)
    batches = bench.batches(sizes.batch_size)
    half = DenseHalf(run.wrapped.module, batches[0], sizes.width)
    with FlopCounterMode(display=False) as counter:
        half.backward("fp32")
    operations = counter.get_total_flops()

    def share(precision: str, seconds: float) -> dict[str, float]:
        return {"dense_flop_share": operations / seconds / bench.limits[precision]}

    for precision in ("bf16", "tf32", "fp32"):
        figures = partial(share, precision)
        yield Way(f"{ALONE}, {precision}", partial(half.steps, precision), sizes.batch_size, figures=figures)
        looped = _in_precision(precision, run, Repeated(batches))
        yield Way(f"{OURS}, {precision}", looped, sizes.batch_size, figures=figures)


class DenseHalf:
    """The layers of a DLRM above its tables, trained by themselves on random vectors in the place of looked-up ones."""

    def __init__(self, model: nn.Module, batch: Batch, width: int) -> None:
        fields = len(batch.sparse.keys())
        self._model, self._batch = model, batch
        self._vectors = torch.randn(len(batch), fields, width, device=batch.dense.device, requires_grad=True)
        self._optimizer = torch.optim.AdamW(model.head.parameters(), DENSE_RATE, weight_decay=0.0, fused=True)

    def steps(self, precision: str, count: int, after_step: Callable[[], None]) -> None:
        """Take some steps."""
        for _ in range(count):
            self.backward(precision)
            self._optimizer.step()
            after_step()

    def backward(self, precision: str) -> None:
        """The forward and the backward pass of one step."""
        self._optimizer.zero_grad()
        self._vectors.grad = None
        device_type = self._vectors.device.type
        with products_in(precision):
            with torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                logit = self._model.logits(self._batch.dense, self._vectors)
            nn.functional.binary_cross_entropy_with_logits(logit.float(), self._batch.label).backward()


def _composition_ways(bench: Workbench) -> Iterator[Way]:
    """The ranker of `frozen_tower.py` under three compositions, of which the last has one segment for all rows."""
    sizes = bench.sizes

    def conditional(num_segments: int, projection: BranchProjection) -> SegmentGatedComposition:
        return SegmentGatedComposition(projection, num_segments, EXPERT_HIDDEN)

    compositions = {
        CONDITIONAL: (partial(conditional, sizes.segments), sizes.segments),
        SHARED: (partial(conditional, 1), 1),
        "parallel": (side_by_side, sizes.segments),
    }
    for name, (compose, num_segments) in compositions.items():
        run = TrainingRun(make_ranker(compose, num_segments), bench.context)
        batches = make_batches(0, sizes.batch_size, sizes.resident, num_segments)
        stream = Repeated([batch.to(bench.device) for batch in batches])
        yield Way(name, _looped(run, stream), sizes.batch_size, is_profiled=True)


def _mode_ways(bench: Workbench) -> Iterator[Way]:
    """The same ranker, composed in parallel, under three modes of its tower."""
    sizes = bench.sizes
    batches = make_batches(0, sizes.batch_size, sizes.resident, frozen_tower.SEGMENTS)
    stream = Repeated([batch.to(bench.device) for batch in batches])
    for name, how in MODES.items():
        variant = Variant(make_ranker(side_by_side, frozen_tower.SEGMENTS), *how, bench.context)

        def answered(seconds: float, variant: Variant = variant) -> dict[str, float]:
            return {} if variant.cache is None else {"answered_share": variant.cache.record()["answered_share"]}

        # In the first turn a cache meets every batch for the first time.
        yield Way(name, _looped(variant.run, stream), sizes.batch_size, skip=sizes.resident + 1, figures=answered)


def _loader_ways(bench: Workbench) -> Iterator[Way]:
    """Batches from Parquet to the device, and nothing done with them."""
    sizes, skip = bench.sizes, _steps_to_fill(bench, bench.sizes.batch_size)

    def take(count: int, after_step: Callable[[], None]) -> None:
        with closing(bench.stream(sizes.batch_size)) as stream:
            for _ in islice(stream, count):
                after_step()

    most = sizes.parquet_rows // sizes.batch_size - skip - 1
    yield Way("shuffled, to the device", take, sizes.batch_size, skip=skip, most=most)


def _steps_to_fill(bench: Workbench, batch_size: int) -> int:
    """Steps that take more rows than a stream holds: from then on it gives none that it had read before the first."""
    return bench.stream(batch_size).most_rows // batch_size + 3


def _looped(run: TrainingRun, stream: Repeated, **how: Any) -> Take:
    def take(count: int, after_step: Callable[[], None]) -> None:
        collections.deque(run.steps(stream, count, after_step=after_step, **how), maxlen=0)

    return take


def _in_precision(precision: str, run: TrainingRun, stream: Repeated) -> Take:
    looped = _looped(run, stream, precision="bfloat16" if precision == "bf16" else "float32")

    def take(count: int, after_step: Callable[[], None]) -> None:
        with products_in(precision):
            looped(count, after_step)

    return take


def _from_parquet(bench: Workbench, run: TrainingRun, batch_size: int) -> Take:
    def take(count: int, after_step: Callable[[], None]) -> None:
        with closing(bench.stream(batch_size)) as stream:
            collections.deque(run.steps(stream, count, after_step=after_step), maxlen=0)

    return take


def _each(stream: Repeated, step: Callable[[Batch], None]) -> Take:
    def take(count: int, after_step: Callable[[], None]) -> None:
        for batch in islice(stream, count):
            step(batch)
            after_step()

    return take
