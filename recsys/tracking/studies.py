"""Studies back from the store: their arms, their verdict, and what differs, from any machine that reaches the store."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from recsys.errors import DataError, UsageError
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

    def scores(self, split: str = names.TEST) -> dict[str, float]:
        """AUC on the split: "all" and each segment that has one."""
        section = names.auc(split, "")
        return {
            names.unescaped(name.removeprefix(section)): value
            for name, value in self.run.data.metrics.items()
            if name.startswith(section)
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
