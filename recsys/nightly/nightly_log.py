"""What scheduled runs did and decided: one line of JSON per decision, in a file that grows for years."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from recsys.locks import this_process


class DailyStage(StrEnum):
    """What a scheduled run does, in order."""

    PREPARE = "prepare"
    CHECK = "check"
    PRETRAIN = "pretrain"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PROMOTE = "promote"


STAGES = tuple(DailyStage)


class DayOutcome(StrEnum):
    """What an event says of a day."""

    STARTED = "started"
    DONE = "done"
    UP_TO_DATE = "up to date"
    WAITING = "waiting"
    WARNING = "warning"
    STALE = "stale"
    STOPPED = "stopped"
    FAILED = "failed"
    PROMOTED = "promoted"
    REFUSED = "refused"
    CHANGED = "verdict changed"


@dataclass(frozen=True)
class NightlyEvent:
    """One line of the log.

    Attributes:
        time: when, UTC, to the second.
        date: of the scheduled run, YYYY-MM-DD.
        stage: which of its stages, such as "train".
        message: one sentence.
        folder: of the day's work; empty before it is known.
        pid, host: of the process that says so.
    """

    time: str
    date: str
    stage: str
    outcome: DayOutcome
    message: str
    folder: str
    pid: int
    host: str

    def to_json(self) -> str:
        """Return the event as one line, without its end."""
        return json.dumps(asdict(self), ensure_ascii=False)


VERDICT_CHANGED = 10
"""The exit code of a command that did its work, and whose weekly study says something else than the one before."""

Tell = Callable[[NightlyEvent], None]


class NightlyLog:
    """The log of one data set's scheduled runs.

    Args:
        path: of the file; made by the first event.
        tell: called with every event as well, such as to print it.
    """

    def __init__(self, path: Path, tell: Tell = lambda _: None) -> None:
        self._path, self._tell = path, tell

    def add(self, day: date, stage: str, outcome: DayOutcome, message: str, folder: Path | None = None) -> NightlyEvent:
        """Append one event."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        name = folder.name if folder else ""
        event = NightlyEvent(now, day.isoformat(), str(stage), outcome, message, name, **this_process())
        # One write is one line, whoever else appends. A line torn by a crash is ended first, and passed over when read.
        with self._path.open("ab+", buffering=0) as stream:
            is_torn = stream.tell() > 0 and os.pread(stream.fileno(), 1, stream.tell() - 1) != b"\n"
            stream.write((("\n" if is_torn else "") + event.to_json() + "\n").encode())
            os.fsync(stream.fileno())
        self._tell(event)
        return event

    def events(self) -> Iterator[NightlyEvent]:
        """Every event, oldest first."""
        if not self._path.is_file():
            return
        with self._path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if (event := _event_of(line)) is not None:
                    yield event


def _event_of(line: str) -> NightlyEvent | None:
    try:
        document: dict[str, Any] = json.loads(line)
        return NightlyEvent(**document | {"outcome": DayOutcome(document["outcome"])})
    except (ValueError, TypeError, KeyError):
        return None
