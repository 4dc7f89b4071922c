"""Run a study: every arm, the paired comparison, the verdict; or say what it would do."""

import argparse

from recsys.ablation.comparison import Comparison
from recsys.ablation.study_tables import arms_table
from recsys.config import RunConfig
from recsys.metrics.registry import study_metrics
from recsys.run.record import CUTOFF
from recsys.study import ablate
from recsys.study.outlook import outlook

from .console import console, progress_bars, show_table, warn


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Run the study, and print it."""
    with progress_bars() as progress:
        study = ablate.run(arguments.overrides, progress)
    show(study)
    console.print("Next: recsys ui")


def show(study: ablate.Study) -> None:
    """Print the study's tables and verdict; what is too wide for a terminal stands in the report."""
    table = arms_table(study.scores, study_metrics(CUTOFF))
    # Seeds are the second column, the same for every arm.
    rows = [(row[0], *(cell.replace(" ± ", "±") for cell in row[2:])) for row in table.rows]
    show_table(table.title, (table.header[0], *table.header[2:]), rows)
    for comparison in study.comparisons:
        contrast = comparison.contrast
        held = ", ".join(str(value) for value in contrast.held.values())
        title = f"{contrast.first_value} minus {contrast.second_value}, AUC{f' ({held})' if held else ''}"
        show_table(title, ("segment", "users", "difference", "95 % interval", "verdict"), _difference_rows(comparison))
    for sentence in study.shortfalls():
        warn(sentence)
    console.print(f"\n[bold]Verdict.[/bold] {study.verdict}\n")
    console.print(f"Report: {study.folder / 'report.html'}", soft_wrap=True)


def plan(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print what the study would do."""
    found = outlook(arguments.overrides)
    show_table(found.arms.title, found.arms.header, found.arms.rows)
    for sentence in found.sentences:
        console.print(sentence, soft_wrap=True, markup=False)


def _difference_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    entries = [entry for entry in comparison.differences if entry.metric == ablate.DECISIVE]
    return [
        (
            entry.segment,
            f"{entry.users:,}",
            f"{entry.difference:+.4f}",
            "-" if entry.low is None else f"{entry.low:+.4f} to {entry.high:+.4f}",
            str(entry.verdict),
        )
        for entry in entries
    ]
