"""A study's arms, differences and verdict from the tracking store, as tables or as JSON: no browser, no run folder."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape

from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.metrics.log_loss import LOG_LOSS
from recsys.metrics.registry import label_of
from recsys.run.record import recorded_store
from recsys.tracking import names
from recsys.tracking.studies import RecordedRun, RecordedStudy, find_study

from .console import console, show_table

_LOG_LOSS = names.score(names.TEST, LOG_LOSS.name)
Document = Mapping[str, Any]


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print the study.

    Raises:
        DataError: nothing is recorded, or no such study.
        ServiceError: the tracking server does not answer.
        UsageError: the study was not compared in that metric.
    """
    store = recorded_store(config)
    study = find_study(store, arguments.study)
    comparisons = study.comparisons(store)
    metric = arguments.metric
    known = list(dict.fromkeys(entry["metric"] for each in comparisons for entry in each["differences"]))
    if known and metric not in known:
        raise UsageError(f"--metric is {metric!r}; {study.ablation_id} was compared in {', '.join(known)}.")
    if arguments.json:
        print(json.dumps(study_document(study, comparisons), indent=2))
        return
    show_arms(study, _segments(comparisons, study))
    for comparison in comparisons:
        _show_comparison(comparison, metric)
    console.print(f"\n[bold]Verdict.[/bold] {escape(study.verdict or _not_yet(study))}\n")
    console.print(f"In MLflow: recsys ui --study {study.ablation_id}", soft_wrap=True, markup=False)


def study_document(study: RecordedStudy, comparisons: Sequence[Document]) -> dict[str, Any]:
    """All that the tables are made of, in the numbers' full length."""
    return {
        "study": study.ablation_id,
        "experiment": study.experiment,
        "verdict": study.verdict or None,
        "arms": [run_document(each) for each in study.arms],
        "comparisons": list(comparisons),
    }


def run_document(each: RecordedRun) -> dict[str, Any]:
    """One run: who it is, how it ended, what it scored."""
    run = each.run
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "experiment": each.experiment,
        "kind": each.tag(names.TAG_KIND) or None,
        "study": each.tag(names.TAG_ABLATION_ID) or None,
        "status": run.info.status,
        "started": run.info.start_time / 1000,
        "seconds": each.seconds,
        "params": {name: run.data.params[name] for name in names.GROUPING_PARAMS if name in run.data.params},
        "metrics": dict(sorted(run.data.metrics.items())),
    }


def show_arms(study: RecordedStudy, segments: Sequence[str]) -> None:
    """Print each arm's test scores: mean and standard deviation over the seeds that have finished."""
    by_arm: dict[str, list[RecordedRun]] = {}
    for each in study.arms:
        if each.is_finished:
            by_arm.setdefault(each.tag(names.TAG_ARM), []).append(each)
    scored = {arm: [each.scores() for each in runs] for arm, runs in by_arm.items()}
    losses = {arm: [each.run.data.metrics.get(_LOG_LOSS) for each in runs] for arm, runs in by_arm.items()}
    header = ("arm", "seeds", "AUC", *segments, "log loss")
    rows = [
        (
            arm,
            str(len(found)),
            *(_mean([scores.get(segment) for scores in found]) for segment in (ALL, *segments)),
            _mean(losses[arm]),
        )
        for arm, found in scored.items()
    ]
    show_table(f"{study.ablation_id} in {study.experiment}: test AUC, mean ± deviation over seeds", header, rows)


def _show_comparison(comparison: Document, metric: str) -> None:
    contrast = comparison["contrast"]
    held = ", ".join(map(str, contrast["held"].values()))
    title = (
        f"{contrast['first_value']} minus {contrast['second_value']}, {label_of(metric)}{f' ({held})' if held else ''}"
    )
    rows = [
        (
            entry["segment"],
            f"{entry['users']:,}",
            f"{entry['difference']:+.4f}",
            "-" if entry["low"] is None else f"{entry['low']:+.4f} to {entry['high']:+.4f}",
            entry["verdict"],
        )
        for entry in comparison["differences"]
        if entry["metric"] == metric
    ]
    show_table(title, ("segment", "users", "difference", "95 % interval", "verdict"), rows)


def _segments(comparisons: Sequence[Document], study: RecordedStudy) -> list[str]:
    """In the schema's order, which the comparisons keep; by the alphabet where there are none yet."""
    ordered = dict.fromkeys(entry["segment"] for each in comparisons for entry in each["differences"])
    scored = {segment for each in study.arms for segment in each.scores()}
    rest = sorted(scored - set(ordered))
    return [segment for segment in (*ordered, *rest) if segment in scored and segment != ALL]


def _mean(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return "-"
    deviation = f" ±{np.std(found, ddof=1):.4f}" if len(found) > 1 else ""
    return f"{np.mean(found):.4f}{deviation}"


def _not_yet(study: RecordedStudy) -> str:
    done = sum(each.is_finished for each in study.arms)
    return (
        f"There is none yet: {done} of the {len(study.arms)} runs of its arms so far have finished, and the study's "
        "own run follows the last of them. The same `recsys ablate` goes on where it was."
    )
