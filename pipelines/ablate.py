"""Run a study: every arm, the paired comparison, the verdict; or say what it would do."""

import argparse

from recsys.config import RunConfig
from recsys.study import ablate
from recsys.study.outlook import outlook

from .console import console, progress_bars, show_table, warn
from .result_tables import show_study


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Run the study, and print it."""
    with progress_bars() as progress:
        study = ablate.run(arguments.overrides, progress)
    show(study)
    console.print("Next: recsys ui")


def show(study: ablate.FinishedStudy) -> None:
    """Print the study as `recsys compare` does, and where its report is."""
    comparisons = [each.to_document() for each in study.comparisons]
    show_study(study.id, study.scores, comparisons, ablate.DECISIVE, study.verdict)
    for sentence in study.shortfalls():
        warn(sentence)
    console.print(f"Report: {study.folder / 'report.html'}", soft_wrap=True, markup=False)


def plan(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print what the study would do."""
    found = outlook(arguments.overrides)
    show_table(found.arms.title, found.arms.header, found.arms.rows)
    for sentence in found.sentences:
        console.print(sentence, soft_wrap=True, markup=False)
