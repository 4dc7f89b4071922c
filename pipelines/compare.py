"""A study's arms, differences and verdict from the tracking store, as tables or as JSON: no browser, no run folder."""

import argparse
import json

from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.run.record import recorded_store
from recsys.tracking.studies import RecordedStudy, find_study

from .console import console
from .result_tables import show_study


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
        print(json.dumps(study.to_document(comparisons), indent=2))
        return
    verdict = study.verdict or _not_yet(study)
    show_study(f"{study.ablation_id} in {study.experiment}", study.scores, comparisons, metric, verdict)
    console.print(f"In MLflow: recsys ui --study {study.ablation_id}", soft_wrap=True, markup=False)


def _not_yet(study: RecordedStudy) -> str:
    done = sum(each.is_finished for each in study.arms)
    return (
        f"There is none yet: {done} of the {len(study.arms)} runs of its arms so far have finished, and the study's "
        "own run follows the last of them. The same `recsys ablate` goes on where it was."
    )
