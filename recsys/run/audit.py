"""Does the loss of every segment's rows reach every part that it should, and no other? Checked before training."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from recsys.build_objective import build_objective
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import TrainingError
from recsys.features.batch import Batch
from recsys.files import ensure_writable
from recsys.monitoring.gradient_flow import FlowReport, audit_flow
from recsys.monitoring.gradient_flow_faults import Probe
from recsys.progress import Progress
from recsys.run import prepare, pretrain
from recsys.run.assemble import Assembly, ready_ranker
from recsys.run.streams import TRAIN, require_rows
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext
from recsys.streaming.loader import BatchStream
from recsys.tracking.run import TrackedRun
from recsys.training.modes import modules_frozen_in
from recsys.training.step import Objective

REPORT = "gradient_flow.json"
# Enough rows that no layer's every ReLU is closed by chance, and so few that a pass costs milliseconds.
_ROWS_PER_SEGMENT = 256
# A segment too rare to be among this many rows is probed with made-up ones.
_MOST_ROWS, _ROWS_AT_ONCE = 65_536, 4096


def run(config: RunConfig, progress: Progress) -> FlowReport:
    """Audit the ranker that `recsys train` would train, as it is before its first step.

    Raises:
        DataError, UsageError: see the steps.
    """
    ensure_writable(config.runtime.towers)
    encoded = prepare.run(config, progress)
    require_rows(encoded, (TRAIN,))
    artifact = pretrain.run(config, encoded, progress)
    ready = ready_ranker(config, encoded, artifact, progress)
    # It stops at the first fault of a frozen part; the audit names all faults of all parts.
    ready.assembly.stages.proof.close()
    probes = probes_of(ready.config, encoded, ready.assembly, ready.context)
    return audited(ready.assembly, probes, ready.objective.loss)


def audited(assembly: Assembly, probes: Sequence[Probe], objective: Objective) -> FlowReport:
    """Audit a ranker in its present stage on the probes; weights and random state are unchanged."""
    frozen = modules_frozen_in(_ranker_of(assembly), assembly.stages.current.mode)
    return audit_flow(assembly.wrapped, objective, probes, frozen=frozen)


def probes_of(config: RunConfig, encoded: EncodedDataset, assembly: Assembly, context: ProcessContext) -> list[Probe]:
    """Take some rows of every segment from the training split; see `make_probes`."""
    objective = build_objective(config.training, encoded.contract)
    stream = BatchStream(
        encoded.root,
        TRAIN,
        encoded.contract,
        batch_size=_ROWS_AT_ONCE,
        seed=config.training.seed,
        # In the order of the files the first rows are of the first day, on which nobody has a past.
        shuffle=True,
        shuffle_buffer_rows=_ROWS_AT_ONCE,
        decode_threads=0,
        device=context.device,
        extras=objective.extras,
        together=objective.together,
        rank=context.rank,
        world_size=context.world_size,
    )
    probes = make_probes(_ranker_of(assembly), stream, encoded.contract.schema.segments, objective.together)
    stream.close()
    return probes


def require_flow(tracked: TrackedRun, report: FlowReport) -> None:
    """Attach the report to the run.

    Raises:
        TrainingError: gradients do not flow as they should; names every place.
    """
    tracked.attach(REPORT, json.dumps(report.to_document(), indent=1))
    report.require_clean()


def make_probes(ranker: Ranker, batches: Iterable[Batch], segments: Sequence[str], together: str = "") -> list[Probe]:
    """Take some rows of every segment from the first batches; a segment that has none there gets made-up ones.

    Made-up rows are other segments' rows under this one's number.

    Args:
        together: the extra column of lists, for a loss that compares the rows of one: a segment's rows are then made
            one list, with chosen rows and others.

    Raises:
        TrainingError: no row has a weight above 0.
    """
    found = _rows_by_segment(batches, len(segments))
    if together:
        found = [None if batch is None or len(batch) == 1 else _as_one_list(batch, together) for batch in found]
    # A tower that reads events is reached by rows that have some; a segment of newcomers has none.
    found = [batch if batch is None or ranker.embedding_tower.is_exercised_by(batch) else None for batch in found]
    rows = next((batch for batch in found if batch is not None), None)
    if rows is None:
        raise TrainingError(
            "No row among the first of the training split has a weight above 0 and what the tower reads (a history "
            "tower: events on each side): there is nothing to learn from."
        )
    return [
        Probe(
            segment=segment,
            batch=replace(rows, segment=torch.full_like(rows.segment, number)) if batch is None else batch,
            reaches=ranker.reached_by(number),
            only_through=tuple(ranker.composition.only_through.items()),
            without_gradient=ranker.composition.without_gradient,
            is_made_up=batch is None,
        )
        for number, (segment, batch) in enumerate(zip(segments, found, strict=True))
    ]


def _as_one_list(batch: Batch, column: str) -> Batch:
    """The rows as those of one list; where all have one label, every other one has the other."""
    label = batch.label.clone()
    if bool((label == label[0]).all()):
        label[::2] = 1 - label[::2]
    return replace(batch, label=label, extra={**batch.extra, column: torch.zeros_like(batch.extra[column])})


def _ranker_of(assembly: Assembly) -> Ranker:
    module = unwrapped(assembly.wrapped)
    assert isinstance(module, Ranker)
    return module


def _rows_by_segment(batches: Iterable[Batch], num_segments: int) -> list[Batch | None]:
    """Return, for each segment, its rows from the batch that has most of them among the first."""
    found: list[Batch | None] = [None] * num_segments
    seen = 0
    for batch in batches:
        for number in range(num_segments):
            rows = ((batch.segment == number) & (batch.weight > 0)).nonzero().squeeze(1)[:_ROWS_PER_SEGMENT]
            if len(rows) > len(found[number] or ()):
                found[number] = batch.take(rows)
        seen += len(batch)
        if seen >= _MOST_ROWS or all(len(each or ()) == _ROWS_PER_SEGMENT for each in found):
            break
    return found
