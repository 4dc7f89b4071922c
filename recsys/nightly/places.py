"""Where scheduled runs keep what they know, and how a day's folder is read back."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.config import RunConfig
from recsys.files import write_text_atomically
from recsys.run.folder import CHECKPOINTS, load_result, read_record
from recsys.scheduling.champion_file import ChampionFile
from recsys.scheduling.window import Window

INPUTS = "inputs.json"


@dataclass(frozen=True)
class NightlyRoot:
    """The folder of one data set's scheduled runs."""

    path: Path

    @classmethod
    def of(cls, config: RunConfig) -> "NightlyRoot":
        """That of the configured data."""
        return cls(config.runtime.runs / config.data.name / "daily")

    @property
    def champions(self) -> ChampionFile:
        """The file that names the champion."""
        return ChampionFile(self.path / "champion.json")

    @property
    def log(self) -> Path:
        """Every decision, one line each."""
        return self.path / "log.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the scheduled run that is under way."""
        return self.path / ".daily.lock"

    @property
    def studies(self) -> Path:
        """What each week's study said, a file a date."""
        return self.path / "studies"

    def work(self, date: datetime.date, key: str) -> "DayFolder":
        """A date's folder under the key of all that its model follows from."""
        return DayFolder(self.path / f"{date}-{key[:8]}")

    def works(self, date: datetime.date) -> list["DayFolder"]:
        """Every folder that a date has, the one that was begun last at the end."""
        found = [path for path in self.path.glob(f"{date}-*") if (path / INPUTS).is_file()]
        return [DayFolder(path) for path in sorted(found, key=lambda path: (path / INPUTS).stat().st_mtime_ns)]

    def dates(self) -> list[datetime.date]:
        """Every date that has a folder, oldest first."""
        found = set[datetime.date]()
        for path in self.path.glob(f"????-??-??-*/{INPUTS}"):
            try:
                found.add(datetime.date.fromisoformat(path.parent.name[:10]))
            except ValueError:
                continue
        return sorted(found)


@dataclass(frozen=True)
class DayInputs:
    """What one day's work was made of.

    Attributes:
        start: the champion's folder name that it started from; empty from scratch.
        days: raw UTC day -> fingerprint of its rows, of every day before the date.
    """

    window: Mapping[str, str]
    start: str
    days: Mapping[str, str]


@dataclass(frozen=True)
class DayFolder:
    """What one date's run leaves behind."""

    path: Path

    @property
    def inputs(self) -> DayInputs:
        """What it was made of.

        Raises:
            DataError: the file is damaged.
        """
        return read_record(self.path / INPUTS, lambda text: DayInputs(**json.loads(text)))

    def write_inputs(self, window: Window, start: str, days: Mapping[datetime.date, str]) -> None:
        """Keep what it is made of; the same again is not written."""
        document = {
            "window": {part: str(getattr(window, part)) for part in ("train", "validation", "test")},
            "start": start,
            "days": {day.isoformat(): found for day, found in sorted(days.items())},
        }
        text = json.dumps(document, indent=1) + "\n"
        path = self.path / INPUTS
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, text)

    @property
    def has_checkpoint(self) -> bool:
        """Whether a run that was broken off can go on."""
        return any((self.path / CHECKPOINTS).glob("step-*"))

    @property
    def is_trained(self) -> bool:
        """Whether its ranker is trained and measured."""
        return load_result(self.path) is not None
