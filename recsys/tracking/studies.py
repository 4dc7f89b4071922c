"""Studies back from the store: their arms, their verdict, and what differs, from any machine that reaches the store."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from recsys.all_segments import ALL
from recsys.errors import DataError, UsageError
from recsys.metrics.auc import AUC
from recsys.metrics.ranked_lists import SCOPES, name_at
from recsys.metrics.registry import ranking_metrics, row_metrics
from recsys.tracking import names
from recsys.tracking.store import TrackingStore

_RUNS_PER_PAGE = 1000
_FINISHED = RunStatus.to_string(RunStatus.FINISHED)
_ID = re.compile(r"[\w.-]*")
_KNOWN_SHOWN = 8


@dataclass(frozen=True)
class RecordedRun:
    """One run of whatever kind, and the name of its experiment."""

    experiment: str
    run: Run

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end."""
        return bool(self.run.info.status == _FINISHED)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is under way."""
        info = self.run.info
        return (info.end_time - info.start_time) / 1000 if info.end_time else None

    def tag(self, name: str) -> str:
        """A tag's value; empty where the run has none."""
        return str(self.run.data.tags.get(name, ""))

    def scores(self) -> dict[str, float]:
        """Its scores on the test split, as "auc/all", "auc/<segment>", "log_loss/all", "recall_20/all"."""
        recorded, section = self.run.data.metrics, names.auc(names.TEST, "")
        found = {
            f"{AUC.name}/{names.unescaped(name.removeprefix(section))}": value
            for name, value in recorded.items()
            if name.startswith(section)
        }
        for metric in row_metrics():
            if (value := recorded.get(names.score(names.TEST, metric.name))) is not None:
                found[f"{metric.name}/{ALL}"] = value
        for metric, scope in product(ranking_metrics(), SCOPES):
            stem = re.compile(re.escape(names.ranking(metric.name, scope)).replace("_", r"(\d+)_", 1))
            for name, value in recorded.items():
                if cutoff := stem.fullmatch(name):
                    found[f"{name_at(metric.name, int(cutoff[1]), scope)}/{ALL}"] = value
        return found

    def to_document(self) -> dict[str, Any]:
        """Who it is, how it ended, what it scored."""
        info, data = self.run.info, self.run.data
        return {
            "run_id": info.run_id,
            "name": info.run_name,
            "experiment": self.experiment,
            "kind": self.tag(names.TAG_KIND) or None,
            "study": self.tag(names.TAG_ABLATION_ID) or None,
            "status": info.status,
            "started": info.start_time / 1000,
            "seconds": self.seconds,
            "params": {name: data.params[name] for name in names.GROUPING_PARAMS if name in data.params},
            "metrics": dict(sorted(data.metrics.items())),
        }


@dataclass(frozen=True)
class RecordedStudy:
    """What a store holds of one study.

    Attributes:
        arms: every run of an arm, oldest first, whatever became of it.
        own: the study's own run, with verdict and report; None until every arm has finished.
    """

    ablation_id: str
    arms: tuple[RecordedRun, ...]
    own: RecordedRun | None

    @property
    def experiment_id(self) -> str:
        """Of the experiment that its runs belong to."""
        return str((self.own or self.arms[0]).run.info.experiment_id)

    @property
    def experiment(self) -> str:
        """That experiment's name."""
        return (self.own or self.arms[0]).experiment

    @property
    def verdict(self) -> str:
        """The paragraph; empty where there is none yet."""
        return self.own.tag(names.TAG_VERDICT) if self.own else ""

    @property
    def scores(self) -> dict[str, list[dict[str, float]]]:
        """Arm -> the scores of each seed that has finished, then the baselines'."""
        finished = [each for each in self.arms if each.is_finished]
        found: dict[str, list[dict[str, float]]] = {}
        for each in finished:
            found.setdefault(each.tag(names.TAG_ARM), []).append(each.scores())
        # Fitted on the rows that all arms have, so any arm's will do.
        baselines = names.baselines_of(finished[0].run.data.metrics) if finished else {}
        return found | {f"baseline: {name}": [scores] for name, scores in baselines.items()}

    def to_document(self, comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """All that its tables are made of, in the numbers' full length."""
        return {
            "study": self.ablation_id,
            "experiment": self.experiment,
            "verdict": self.verdict or None,
            "arms": [each.to_document() for each in self.arms],
            "comparisons": list(comparisons),
        }

    def comparisons(self, store: TrackingStore) -> list[dict[str, Any]]:
        """Every comparison as `Comparison.to_document` gave it; none where the study has not finished.

        Raises:
            DataError: the study's run has no such attachment.
        """
        if self.own is None:
            return []
        client, run = store.open(), self.own.run
        if names.COMPARISONS_FILE not in [file.path for file in client.list_artifacts(run.info.run_id)]:
            raise DataError(
                f"The run {run.info.run_name!r} ({run.info.run_id}) has no attachment {names.COMPARISONS_FILE}, which "
                "`recsys ablate` gives it. Run the study again: arms that finished are not trained anew."
            )
        with TemporaryDirectory() as folder:
            place = client.download_artifacts(run.info.run_id, names.COMPARISONS_FILE, folder)
            found: list[dict[str, Any]] = json.loads(Path(place).read_text(encoding="utf-8"))
        return found


def recorded_runs(store: TrackingStore, ablation_id: str = "") -> list[RecordedRun]:
    """Return the runs of all experiments, newest first; of one study where it is named.

    Raises:
        ServiceError: the server does not answer.
    """
    client = store.open()
    experiments = {found.experiment_id: found.name for found in client.search_experiments()}
    condition = f"tags.{names.TAG_ABLATION_ID} = '{_checked(ablation_id)}'" if ablation_id else ""
    return [RecordedRun(experiments[run.info.experiment_id], run) for run in _pages(client, experiments, condition)]


def find_study(store: TrackingStore, wanted: str = "") -> RecordedStudy:
    """Return the study of that id, or else the newest whose id begins so; with nothing wanted, the newest of all.

    Raises:
        ServiceError: the server does not answer.
        DataError: there is none; names those that there are.
        UsageError: `wanted` cannot be an id.
    """
    _checked(wanted)
    by_id: dict[str, list[RecordedRun]] = {}
    for each in recorded_runs(store):
        if (study := each.tag(names.TAG_ABLATION_ID)) and each.tag(names.TAG_KIND) in ("arm", "study"):
            by_id.setdefault(study, []).append(each)
    fitting = [study for study in by_id if study == wanted] or [study for study in by_id if study.startswith(wanted)]
    if not fitting:
        raise DataError(
            f"The store {store.public_uri} has no study {wanted!r}; it has: {_listed(by_id)}. Name one of these or the "
            "beginning of one, or run one with `recsys ablate`."
        )
    # Runs came newest first, so studies did by their newest run.
    runs = by_id[fitting[0]]
    own = [each for each in runs if each.tag(names.TAG_KIND) == "study" and each.is_finished]
    arms = [each for each in reversed(runs) if each.tag(names.TAG_KIND) == "arm"]
    return RecordedStudy(fitting[0], tuple(arms), own[0] if own else None)


def _listed(studies: Iterable[str]) -> str:
    known = list(studies)
    more = f" and {len(known) - _KNOWN_SHOWN} older" if len(known) > _KNOWN_SHOWN else ""
    return ", ".join(known[:_KNOWN_SHOWN]) + more if known else "none"


def _checked(ablation_id: str) -> str:
    # It becomes part of a query.
    if not _ID.fullmatch(ablation_id):
        raise UsageError(
            f"{ablation_id!r} is no id of a study; expected letters, digits, `-`, `_` and `.`, as in "
            "frozen_vs_finetuned-62dacbb2. `recsys runs` lists them."
        )
    return ablation_id


def _pages(client: MlflowClient, experiments: Mapping[str, str], condition: str) -> Iterable[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(
            list(experiments),
            condition,
            max_results=_RUNS_PER_PAGE,
            order_by=["start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return
