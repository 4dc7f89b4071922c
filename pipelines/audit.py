"""Does the loss of every segment's rows reach every part that it should, and no other? Asked before the first step."""

import argparse
import json
from pathlib import Path

from recsys.config import RunConfig
from recsys.errors import TrainingError
from recsys.files import ensure_writable, write_text_atomically
from recsys.monitoring.gradient_flow import FlowCell, FlowReport
from recsys.monitoring.gradient_flow_faults import Severity, lies_in
from recsys.run import audit

from .console import console, progress_bars, show_table


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Print the report, write it where asked, and end with 70 where something was found."""
    if arguments.json:
        ensure_writable(Path(arguments.json).parent)
    with progress_bars() as progress:
        report = audit.run(config, progress)
    show(report)
    if arguments.json:
        write_text_atomically(Path(arguments.json), json.dumps(report.to_document(), indent=1) + "\n")
        console.print(f"Report: {arguments.json}", soft_wrap=True, markup=False)
    return 0 if report.is_clean else TrainingError.exit_code


def show(report: FlowReport) -> None:
    """Print a row per module and a column per segment, and every finding."""
    segments = list(dict.fromkeys(cell.segment for cell in report.cells))
    modules = list(dict.fromkeys(cell.module for cell in report.cells))
    shown = {(cell.module, cell.segment): _shown(report, cell) for cell in report.cells}
    header = [f"{segment}*" if segment in report.made_up else segment for segment in segments]
    rows = [(module, *(shown[module, segment] for segment in segments)) for module in modules]
    show_table("Norm of the gradient that a segment's rows bring", ("module", *header), rows)
    console.print("frozen: does not learn. ·: the segment does not reach it, and brings no gradient. !: see below.")
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
