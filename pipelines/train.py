"""Train one ranker: one composition, one training mode, one seed; show its scores and where everything is."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recsys.config import RunConfig
from recsys.config.overrides import on_top_of
from recsys.errors import UsageError
from recsys.run import train
from recsys.run.folder import TABLE_PLAN, has_checkpoint, load_config, load_result, new_run
from recsys.run.record import final_metrics
from recsys.sharding.first_process import by_first, processes
from recsys.sharding.meeting_point import leave_for_later_starts, left_by_earlier_start
from recsys.study import from_study

from .commands import RESUMED
from .console import console, progress_bars, show_table
from .result_tables import show_optimizers, show_with_baselines

_RUN = "run"


def begun_by_earlier_start() -> str:
    """The folder of the run that this job began before torchrun restarted it, once that can be gone on with."""

    def folder_left() -> str:
        left = left_by_earlier_start(_RUN)
        return left if left and (load_result(Path(left)) or has_checkpoint(Path(left))) else ""

    return by_first(folder_left)


def _show_mixed(study: str, overrides: Sequence[str]) -> None:
    """Train the model that a study's verdicts ask for, and print how it came about and what it is worth.

    Raises:
        UsageError: it is started by torchrun.
    """
    if processes() > 1:
        raise UsageError(
            f"The model of study `{study}` is trained with each of the study's seeds, in processes that this command "
            f"starts by itself, and {processes()} were started. Start it without torchrun; the study's "
            "`ablation.processes_per_arm` says how many train one seed."
        )
    with progress_bars() as progress:
        mixed = from_study.run(study, overrides, progress)
    for table in mixed.tables():
        show_table(table.title, table.header, table.rows)
    if not mixed.folders:
        console.print(f"Every segment takes one training mode, which is an arm of {study}: there is nothing to train.")
    for folder in mixed.folders:
        console.print(f"Run folder: {folder}", soft_wrap=True, markup=False)
    console.print("Next: recsys ui")


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Train, and print the scores and where everything is."""
    if arguments.from_study and arguments.resume:
        raise UsageError("--resume goes on with one run, and --from-study with all runs of a study's model; give one.")
    if arguments.from_study:
        _show_mixed(arguments.from_study, arguments.overrides)
        return
    resume = arguments.resume
    if not resume and (resume := begun_by_earlier_start()):
        what = f"the run {resume}, which an earlier start of this job began"
        config = on_top_of(load_config(Path(resume)), arguments.overrides, RESUMED, what)
        console.print(f"Going on with {what}.", soft_wrap=True, markup=False)
    identity = new_run(config)
    if resume:
        identity = replace(identity, folder=Path(resume))
        if load_result(identity.folder):
            console.print("This run has finished already: nothing is trained, and its record is unchanged.")
    with progress_bars() as progress:
        leave_for_later_starts(_RUN, str(identity.folder.absolute()))
        result = train.run(config, identity, progress, resume=bool(resume))
    show_optimizers(result.optimizers)
    scored = [entry for metrics in final_metrics(result.scores).values() for entry in metrics.items()]
    rows = [(metric, f"{value:.4f}") for metric, value in scored if "support" not in metric]
    title = f"{result.name}: {result.record.steps} steps, the best weights from step {result.best_step}"
    show_table(title, ("metric", "value"), rows)
    show_with_baselines(result.name, result.scores, result.baselines)
    if result.best_step == 0:
        console.print(
            "No validation was better than the start by more than chance, so the ranker is kept as it started: as the "
            "logistic regression of its first-order path, or as the model whose weights it started from.",
            soft_wrap=True,
        )
    for part, proof in result.frozen_proof.items():
        when = f"from step {proof['from_step']} to {proof['to_step']}"
        digests = f"digest {proof['digest_before']} before and {proof['digest_after']} after"
        console.print(f"{part} was unchanged {when}: {digests}", soft_wrap=True)
    if (planned := identity.folder / TABLE_PLAN).is_file():
        brief = json.loads(planned.read_text(encoding="utf-8"))["in_brief"]
        console.print(f"{brief} ({TABLE_PLAN}).", soft_wrap=True, markup=False)
    console.print(f"Run folder: {identity.folder}\nNext: recsys ui", soft_wrap=True, markup=False)
