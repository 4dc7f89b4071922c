"""What is recorded, newest first: every run with its status and its test scores, as tables or as JSON."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.metrics.log_loss import LOG_LOSS
from recsys.run.record import recorded_store
from recsys.tracking import names
from recsys.tracking.studies import RecordedRun, find_study, recorded_runs

from .compare import run_document
from .console import console, show_table

_SHOWN = 30
_LOG_LOSS = names.score(names.TEST, LOG_LOSS.name)


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print the runs of every experiment, or of one study.

    Raises:
        DataError: nothing is recorded, or no such study.
        ServiceError: the tracking server does not answer.
    """
    store = recorded_store(config)
    study = find_study(store, arguments.study).ablation_id if arguments.study else ""
    runs = recorded_runs(store, study)
    if arguments.json:
        print(json.dumps([run_document(each) for each in runs], indent=2))
        return
    shown = runs[:_SHOWN]
    for experiment in dict.fromkeys(each.experiment for each in shown):
        _show([each for each in shown if each.experiment == experiment], experiment)
    if len(runs) > _SHOWN:
        console.print(f"{len(runs) - _SHOWN} older runs are not shown; `recsys runs --json` has them.", soft_wrap=True)
    for each in shown:
        if verdict := each.tag(names.TAG_VERDICT):
            first = verdict.partition(". ")[0].rstrip(".")
            console.print(f"{each.tag(names.TAG_ABLATION_ID)}: {first}.", soft_wrap=True, markup=False)
    if any(each.tag(names.TAG_ABLATION_ID) for each in shown):
        console.print("Next: recsys compare --study <id>", markup=False)


def _show(runs: Sequence[RecordedRun], experiment: str) -> None:
    header = ("run", "AUC", "log loss", "status", "seconds", "started (UTC)", "study")
    show_table(experiment, header, [_row(each) for each in runs])


def _row(each: RecordedRun) -> tuple[str, ...]:
    info, metrics = each.run.info, each.run.data.metrics
    return (
        info.run_name,
        _figure(each.scores().get(ALL)),
        _figure(metrics.get(_LOG_LOSS)),
        info.status.lower(),
        "-" if each.seconds is None else f"{each.seconds:,.0f}",
        datetime.fromtimestamp(info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
        each.tag(names.TAG_ABLATION_ID) or "-",
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
