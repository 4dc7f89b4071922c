"""The cases of `gpu.py`, most telling first: which models, on which batches, in which ways."""

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
from recsys.streaming.loader import BatchStream
from recsys.training.compiled_layers import CompiledLayers
from recsys.training.training_stream import TrainingStream

TABLES, DENSE, COMPOSITIONS, LOADER, MODES_OF_TOWER = "26 tables", "dense half", "compositions", "loader", "tower"
BARE, OURS, PARQUET, TABLES_ALONE = "bare TorchRec", "ours", "ours, from Parquet", "tables alone"
NORMS_EVERY_STEP, NORMS_BY_DEFAULT = "ours, norms every step", "ours, norms by default"
CONDITIONAL, SHARED = "conditional", "conditional, one shared expert"
ALONE = "dense half alone"
SHUFFLED = "shuffled, to the device"
LOOPS = {"bf16": "bfloat16", "tf32": "float32", "fp32": "float32"}
"""What `training.precision` is under each precision of the products."""
REPORT_SECONDS = 1.0
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
    yield Case("compiled", of_batch, partial(_compiled_ways, bench), _LONGEST_SECONDS, sizes.turns)


def _tables(bench: Workbench, width: int, batch_size: int, seconds: float, turns: int) -> Case:
    about = {"width": width, "batch_size": batch_size}
    return Case(TABLES, about, partial(_table_ways, bench, width, batch_size), seconds, turns)


def _table_ways(bench: Workbench, width: int, batch_size: int) -> Sequence[Way]:
    (plain, run), batches, sizes = bench.models(width), bench.batches(batch_size), bench.sizes
    stream, num_tables = Repeated(batches), len(bench.contract.table_rows)
    gradient = torch.full((batch_size, num_tables * width), 1e-6, device=bench.device)

    def bandwidth(seconds: float) -> dict[str, float]:
        rate = sum(moved_bytes(batch, num_tables, width) for batch in batches) / len(batches) / seconds
        return {"table_bandwidth_share": rate / bench.limits["copy"]}

    def look_up_and_update(batch: Batch) -> None:
        plain.model.interaction_network.ebc(batch.sparse).values().backward(gradient)

    ours = _looped(OURS, run, batches)
    from_parquet = Looped(run, partial(bench.stream, batch_size, run))
    return [
        Way(BARE, _each(stream, plain.step), batch_size, is_profiled=True),
        replace(ours, is_profiled=True),
        replace(_from_files(bench, PARQUET, from_parquet, batch_size), figures=from_parquet.idle, is_profiled=True),
        _looped(NORMS_EVERY_STEP, run, batches, norms_every=1),
        replace(_looped(NORMS_BY_DEFAULT, run, batches, norms_every=sizes.norms_every), multiple=sizes.norms_every),
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

    def in_precision(precision: str, take: Take, count: int, after_step: Callable[[], None]) -> None:
        with products_in(precision):
            take(count, after_step)

    for precision in ("bf16", "tf32", "fp32"):
        looped = _looped(f"{OURS}, {precision}", run, batches, precision=LOOPS[precision])
        alone = Way(f"{ALONE}, {precision}", partial(half.steps, precision), sizes.batch_size)
        for way in (alone, looped):
            yield replace(way, take=partial(in_precision, precision, way.take), figures=partial(share, precision))


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
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logit = self._model.logits(self._batch.dense, self._vectors)
        nn.functional.binary_cross_entropy_with_logits(logit.float(), self._batch.label).backward()


def _composition_ways(bench: Workbench) -> Iterator[Way]:
    """The ranker of `frozen_tower.py` under three compositions, of which one has a segment for all rows."""
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
        yield replace(_looped(name, run, _sessions(bench, num_segments)), is_profiled=True)


def _mode_ways(bench: Workbench) -> Iterator[Way]:
    """The same ranker, composed in parallel, under three modes of its tower."""
    batches = _sessions(bench, frozen_tower.SEGMENTS)
    for name, how in MODES.items():
        variant = Variant(make_ranker(side_by_side, frozen_tower.SEGMENTS), *how, bench.context)

        def answered(seconds: float, variant: Variant = variant) -> dict[str, float]:
            return {} if variant.cache is None else {"answered_share": variant.cache.record()["answered_share"]}

        # In the first turn a cache meets every batch for the first time.
        yield replace(_looped(name, variant.run, batches), skip=len(batches) + 1, figures=answered)


def _compiled_ways(bench: Workbench) -> Iterator[Way]:
    """The same ranker as `trainer=gpu` trains it, its layers compiled and not."""
    batches = _sessions(bench, frozen_tower.SEGMENTS)
    for name in ("bf16", "bf16, compiled"):
        ranker = make_ranker(side_by_side, frozen_tower.SEGMENTS)
        layers = CompiledLayers(ranker, bench.sizes.compiler) if name.endswith("compiled") else None
        looped = _looped(name, TrainingRun(ranker, bench.context), batches, precision=LOOPS["bf16"])

        def compiled(seconds: float, layers: CompiledLayers | None = layers) -> dict[str, float]:
            return {} if layers is None else {"compiled_graphs": float(layers.graphs)}

        yield replace(looped, figures=compiled)


def _loader_ways(bench: Workbench) -> Iterator[Way]:
    """Batches from Parquet to the device, and nothing done with them."""

    def take(count: int, after_step: Callable[[], None]) -> None:
        with closing(bench.stream(bench.sizes.batch_size)) as stream:
            for _ in islice(stream, count):
                after_step()

    yield _from_files(bench, SHUFFLED, take, bench.sizes.batch_size)


def _sessions(bench: Workbench, num_segments: int) -> list[Batch]:
    batches = make_batches(0, bench.sizes.batch_size, bench.sizes.resident, num_segments)
    return [batch.to(bench.device) for batch in batches]


def _from_files(bench: Workbench, name: str, take: Take, batch_size: int) -> Way:
    """A way whose turns read the files from their beginning."""
    # From then on a stream gives no row that it had read before its first batch.
    skip = bench.stream(batch_size).most_rows // batch_size + 3
    return Way(name, take, batch_size, skip=skip, most=bench.sizes.parquet_rows // batch_size - skip - 1)


def _looped(name: str, run: TrainingRun, batches: Sequence[Batch], **how: Any) -> Way:
    stream = Repeated(batches)
    looped = Looped(run, lambda: stream, **how)
    return Way(name, looped, len(batches[0]), figures=looped.idle)


def _each(stream: Repeated, step: Callable[[Batch], None]) -> Take:
    def take(count: int, after_step: Callable[[], None]) -> None:
        for batch in islice(stream, count):
            step(batch)
            after_step()

    return take


class Looped:
    """Steps of the project's loop, reported by time as on a GPU.

    Args:
        stream: makes what the steps of one turn train on.
        how: arguments of `TrainingRun.steps`.
    """

    def __init__(self, run: TrainingRun, stream: Callable[[], TrainingStream], **how: Any) -> None:
        self._run, self._stream, self._how = run, stream, how
        self._idle: float | None = None

    def __call__(self, count: int, after_step: Callable[[], None]) -> None:
        """Take some steps."""
        stream, how = self._stream(), self._how
        try:
            for report in self._run.steps(stream, count, report_seconds=REPORT_SECONDS, after_step=after_step, **how):
                self._idle = report.gpu_idle_share
        finally:
            if isinstance(stream, BatchStream):
                stream.close()

    def idle(self, seconds: float) -> dict[str, float]:
        """Return what the last report says of the device's time between steps, of which a CPU knows nothing."""
        return {} if self._idle is None else {"idle_between_steps": self._idle}
