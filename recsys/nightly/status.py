"""What became of each date: done, stale, running and where, waiting, stopped or failed, and why."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.locks import Holder, holder_of
from recsys.metrics.auc import AUC
from recsys.nightly.dated import window_of
from recsys.nightly.nightly_log import DayOutcome, NightlyEvent, NightlyLog
from recsys.nightly.places import DayFolder, NightlyRoot
from recsys.nightly.promote import load_decision
from recsys.nightly.stale import stale_dates
from recsys.progress import Progress
from recsys.run import prepare_daily
from recsys.run.folder import load_result
from recsys.scheduling.champion_file import PROMOTED, REFUSED, ROLLED_BACK


class State(StrEnum):
    """Of a date."""

    DONE = "done"
    STALE = "stale"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"
    FAILED = "failed"
    UNFINISHED = "unfinished"


_STATE_OF = {DayOutcome.WAITING: State.WAITING, DayOutcome.STOPPED: State.STOPPED, DayOutcome.FAILED: State.FAILED}


# What is said of a date beside how its run went on.
_BESIDE = (DayOutcome.STALE, DayOutcome.CHANGED, DayOutcome.WARNING)


@dataclass(frozen=True)
class DayStatus:
    """One date.

    Attributes:
        stage: the last one that was begun.
        decision: "promoted", "refused", or "rolled back" since; empty before there is one.
        champion: the date of the champion that stands after it; empty where there is none.
        auc: of its model on its newest rows; None before it is trained.
        reason: why it is as it is, in a sentence.
        verdicts: what a study of that date found changed.
        folder: of its work, by name.
    """

    date: str
    state: State
    stage: str
    decision: str
    champion: str
    auc: float | None
    reason: str
    verdicts: str
    folder: str

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def status(config: RunConfig, days: int, progress: Progress) -> list[DayStatus]:
    """Return the newest `days` dates that anything is known of, oldest first.

    Raises:
        UsageError: the source's splits cannot be moved to a date.
        DataError: the raw data are missing, or a file of a date is damaged.
    """
    window_of(config, datetime.date.max)
    root = NightlyRoot.of(config)
    events = dict[str, list[NightlyEvent]]()
    for event in NightlyLog(root.log).events():
        events.setdefault(event.date, []).append(event)
    dates = sorted({*map(datetime.date.fromisoformat, events), *root.dates()})[-days:]
    stale = stale_dates(root, prepare_daily.day_fingerprints(config, progress)) if dates else {}
    holder = holder_of(root.lock)
    return [_status(root, date, events.get(date.isoformat(), []), stale, holder) for date in dates]


def _status(
    root: NightlyRoot,
    date: datetime.date,
    events: list[NightlyEvent],
    stale: Mapping[datetime.date, str],
    holder: Holder | None,
) -> DayStatus:
    works = root.works(date)
    folder = works[-1] if works else None
    told = [event for event in events if event.outcome not in _BESIDE]
    last = told[-1] if told else None
    state, reason = _state(folder, last, stale.get(date, ""), holder)
    decision = load_decision(folder.path) if folder else None
    taken_back = _taken_back(root, folder) if folder else ""
    result = load_result(folder.path) if folder else None
    standing = root.champions.before(date + datetime.timedelta(days=1))
    return DayStatus(
        date=date.isoformat(),
        state=state,
        stage=last.stage if last else "",
        decision=ROLLED_BACK if taken_back else "" if decision is None else PROMOTED if decision.promote else REFUSED,
        champion=str(standing.date) if standing else "",
        auc=result.scores.get(f"{AUC.name}/{ALL}") if result else None,
        reason=f"Rolled back: {taken_back}" if taken_back else reason,
        verdicts=" ".join(event.message for event in events if event.outcome is DayOutcome.CHANGED),
        folder=folder.path.name if folder else "",
    )


def _taken_back(root: NightlyRoot, folder: DayFolder) -> str:
    """Why a model's place was taken back; empty where it was not."""
    found = [event for event in root.champions.events() if event.artifact == folder.path.name]
    return " ".join(found[-1].reasons) if found and found[-1].what == ROLLED_BACK else ""


def _state(folder: DayFolder | None, last: NightlyEvent | None, stale: str, holder: Holder | None) -> tuple[State, str]:
    if last and holder and last.outcome is DayOutcome.STARTED and (last.pid, last.host) == (holder.pid, holder.host):
        return State.RUNNING, f"{holder}; {last.message}"
    if stale:
        return State.STALE, f"{stale[0].upper()}{stale[1:]}."
    if folder and (decision := load_decision(folder.path)) is not None:
        return State.DONE, " ".join(decision.reasons)
    if last and last.outcome in _STATE_OF:
        return _STATE_OF[last.outcome], last.message
    stage = last.stage if last else "a stage"
    return State.UNFINISHED, f"Nothing goes on after `{stage}`; the same command goes on from there."
