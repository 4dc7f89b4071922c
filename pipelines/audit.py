"""Does the loss of every segment's rows reach every part that it should, and no other? Asked before the first step."""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pipelines import baselines, prepare, pretrain
from pipelines.console import console, progress_bars, show_table
from pipelines.fitting import TRAIN, Fitted, fitted_ranker, ranker_stream, require_rows, started, with_ranker_budget
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import TrainingError
from recsys.evaluation.baselines import LOGISTIC
from recsys.features.batch import Batch
from recsys.files import ensure_writable, write_text_atomically
from recsys.monitoring.gradient_flow import FlowCell, FlowReport, audit_flow
from recsys.monitoring.gradient_flow_faults import Probe, Severity, lies_in
from recsys.progress import Progress
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext
from recsys.streaming.loader import BatchStream
from recsys.tracking.run import TrackedRun
from recsys.training.loss import click_objective
from recsys.training.modes import DENSE, TABLES, TOWER, TOWER_TABLES_CHILD, learning_halves

REPORT = "gradient_flow.json"
# Enough rows that no layer's every ReLU is closed by chance, and so few that a pass costs milliseconds.
_ROWS_PER_SEGMENT = 256
# A segment too rare to be among this many rows is probed with made-up ones.
_MOST_ROWS, _ROWS_AT_ONCE = 65_536, 4096


def run(config: RunConfig, progress: Progress) -> FlowReport:
    """Audit the ranker that `recsys train` would train, as it stands before its first step.

    Raises:
        DataError, UsageError: see the steps.
    """
    ensure_writable(config.runtime.towers)
    encoded = prepare.run(config, progress)
    require_rows(encoded, (TRAIN,))
    artifact = pretrain.run(config, encoded, progress)
    start = baselines.run(config, encoded, progress)[LOGISTIC]
    config = with_ranker_budget(config, encoded)
    context = started(config)
    batches_per_epoch = ranker_stream(config, encoded, context).num_batches
    fitted = fitted_ranker(config, artifact, start, encoded, batches_per_epoch, context)
    # It stops at the first fault of a frozen part; the audit names all faults of all parts.
    fitted.stages.proof.close()
    return flow_report(config, encoded, fitted, context)


def flow_report(config: RunConfig, encoded: EncodedDataset, fitted: Fitted, context: ProcessContext) -> FlowReport:
    """Audit a ranker in its present stage on rows of the training split; nothing of it moves, nor the random state."""
    module = unwrapped(fitted.wrapped)
    assert isinstance(module, Ranker)
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
        rank=context.rank,
        world_size=context.world_size,
    )
    probes = make_probes(module, stream, encoded.contract.schema.segments)
    stream.close()
    frozen = modules_frozen_in(module, fitted.stages.current.mode)
    return audit_flow(fitted.wrapped, click_objective, probes, frozen=frozen)


def require_flow(tracked: TrackedRun, report: FlowReport) -> None:
    """Attach the report to the run.

    Raises:
        TrainingError: gradients do not flow as they should; names every place.
    """
    tracked.attach(REPORT, json.dumps(report.to_document(), indent=1))
    report.require_clean()


def modules_frozen_in(ranker: nn.Module, mode: str) -> tuple[str, ...]:
    """Return the names of the modules that a training mode freezes, whatever the modules' own flags say."""
    learning = learning_halves(mode)
    if not learning:
        return (TOWER,)
    halves = {
        name: TABLES if name == TOWER_TABLES_CHILD else DENSE
        for name, _ in ranker.get_submodule(TOWER).named_children()
    }
    return tuple(f"{TOWER}.{name}" for name, half in halves.items() if half not in learning)


def make_probes(ranker: Ranker, batches: Iterable[Batch], segments: Sequence[str]) -> list[Probe]:
    """Take some rows of every segment from the first batches; a segment that has none there gets made-up ones.

    Made-up rows are other segments' rows under this one's number.

    Raises:
        TrainingError: no row has a weight above 0.
    """
    found = _rows_by_segment(batches, len(segments))
    rows = next((batch for batch in found if batch is not None), None)
    if rows is None:
        raise TrainingError("No row of the training split has a weight above 0: there is nothing to learn from.")
    return [
        Probe(
            segment=segment,
            batch=replace(rows, segment=torch.full_like(rows.segment, number)) if batch is None else batch,
            reaches=ranker.reached_by(number),
            only_through=tuple(ranker.composition.only_through.items()),
            is_made_up=batch is None,
        )
        for number, (segment, batch) in enumerate(zip(segments, found, strict=True))
    ]


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


def show(report: FlowReport) -> None:
    """Print a row per module and a column per segment, and every finding."""
    segments = list(dict.fromkeys(cell.segment for cell in report.cells))
    modules = list(dict.fromkeys(cell.module for cell in report.cells))
    shown = {(cell.module, cell.segment): _shown(report, cell) for cell in report.cells}
    header = [f"{segment}*" if segment in report.made_up else segment for segment in segments]
    rows = [(module, *(shown[module, segment] for segment in segments)) for module in modules]
    show_table("Norm of the gradient that a segment's rows bring", ("module", *header), rows)
    console.print("frozen: does not learn. ·: not on the segment's way, and untouched. !: see below.")
    if report.made_up:
        console.print("*: no rows in the training data seen; probed with other segments' rows under its name.")
    for finding in report.findings:
        style = "red" if finding.severity is Severity.ERROR else "dim"
        console.print(f"{finding.severity}: {finding}", style=style, markup=False, soft_wrap=True)
    if report.is_clean:
        console.print("Every loss reaches every part that it should, and no other.")


def _shown(report: FlowReport, cell: FlowCell) -> str:
    is_untouched = {"frozen": cell.norm is None, "elsewhere": not cell.norm}.get(cell.expected, False)
    word = "frozen" if cell.expected == "frozen" else "·"
    number = "none" if cell.norm is None else f"{cell.norm:.2g}"
    is_marked = any(
        finding.severity is Severity.ERROR
        and cell.segment in finding.segments
        and any(lies_in(name, [cell.module]) for name in (finding.place, *finding.parameters))
        for finding in report.findings
    )
    return f"{word if is_untouched else number}{' !' if is_marked else ''}"


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Print the report, write it where asked, and end with 70 where something was found."""
    if arguments.json:
        ensure_writable(Path(arguments.json).parent)
    with progress_bars() as progress:
        report = run(config, progress)
    show(report)
    if arguments.json:
        write_text_atomically(Path(arguments.json), json.dumps(report.to_document(), indent=1) + "\n")
        console.print(f"Report: {arguments.json}", soft_wrap=True, markup=False)
    return 0 if report.is_clean else TrainingError.exit_code
