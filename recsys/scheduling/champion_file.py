"""Which model is the champion now: one small file that holds its history too.

So promoting, refusing and rolling back are each one atomic write, and two that promote at once cannot both win.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from recsys.errors import BusyError, DataError, UsageError
from recsys.files import write_text_atomically
from recsys.locks import held_lock
from recsys.scheduling.promotion import Decision

PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"


@dataclass(frozen=True)
class Champion:
    """The model in use.

    Attributes:
        artifact: its run's folder, relative to the champion file's folder, so that both can move together.
        date: its run's, the first day that it has not seen.
        since: when it took over, UTC.
        reasons: why, as `decide` said it.
    """

    artifact: str
    date: datetime.date
    since: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ChampionEvent:
    """What happened to a model.

    Attributes:
        what: `PROMOTED`, `REFUSED` or `ROLLED_BACK`.
        artifact, date: of the model that it happened to.
        champion: the artifact of the champion from then on; None where there is none.
        when: UTC.
    """

    what: str
    artifact: str
    date: datetime.date
    champion: str | None
    when: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Champions:
    standing: tuple[Champion, ...] = ()
    events: tuple[ChampionEvent, ...] = ()

    @property
    def current(self) -> Champion | None:
        return self.standing[-1] if self.standing else None

    def settled(self, artifact: str) -> ChampionEvent | None:
        return next((each for each in self.events if each.artifact == artifact and each.what != ROLLED_BACK), None)


class ChampionFile:
    """The file that names the champion, the champions before it, and all that was promoted, refused or rolled back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def current(self) -> Champion | None:
        """Return the champion, or None where there was none yet.

        Raises:
            DataError: the file is damaged.
        """
        return self._read().current

    def before(self, date: datetime.date) -> Champion | None:
        """Return the newest champion of an earlier date that was not rolled back; None where there is none.

        It is the one that a run of `date` starts from and is compared with, however often the date is done.

        Raises:
            DataError: the file is damaged.
        """
        return next((each for each in reversed(self._read().standing) if each.date < date), None)

    def of(self, date: datetime.date) -> Champion | None:
        """Return the champion of a date, which gives way where the date is done again; None where it has none.

        Raises:
            DataError: the file is damaged.
        """
        return next((each for each in self._read().standing if each.date == date), None)

    def events(self) -> tuple[ChampionEvent, ...]:
        """Return every promotion, refusal and rollback, oldest first.

        Raises:
            DataError: the file is damaged.
        """
        return self._read().events

    def folder(self, champion: Champion) -> Path:
        """Return the champion's folder."""
        return self.path.parent / champion.artifact

    def settle(
        self,
        artifact: Path,
        date: datetime.date,
        instead_of: str | None,
        decision: Decision,
        gives_way: str | None = None,
    ) -> Decision:
        """Write down what was decided of a challenger, and make it the champion of its date if it was promoted.

        Where later dates have champions, the newest of them stays the one in use. A champion of the same date, whose
        rows have changed since, gives way. What was settled before stays as it is, whatever became of the model since,
        and nothing is written.

        Args:
            artifact: a folder below the champion file's folder.
            instead_of: the artifact of the champion before `date` that the challenger was compared with, None where
                there was none.
            gives_way: the artifact of the champion of `date` itself at that time; None where there was none.

        Returns:
            The decision that stands.

        Raises:
            UsageError: the artifact is no folder there.
            BusyError: another process writes right now, or one of the two champions is another one by now.
            DataError: the file is damaged.
        """
        name = self._relative(artifact)
        with self._locked():
            found = self._read()
            if earlier := found.settled(name):
                return Decision(earlier.what == PROMOTED, earlier.reasons)
            before = [each for each in found.standing if each.date < date]
            rival = before[-1].artifact if before else None
            same_date = next((each.artifact for each in found.standing if each.date == date), None)
            if (rival, same_date) != (instead_of, gives_way):
                raise BusyError(
                    f"The champion before {date} in {self.path} became {rival or 'none'}, and that of {date} "
                    f"{same_date or 'none'}, while {name} was being compared with {instead_of or 'none'}. Start the "
                    "run again: it compares with the new one."
                )
            now = _now()
            standing, what = found.standing, REFUSED
            if decision.promote:
                later = [each for each in found.standing if each.date > date]
                standing, what = (*before, Champion(name, date, now, decision.reasons), *later), PROMOTED
            champion = standing[-1].artifact if standing else None
            event = ChampionEvent(what, name, date, champion, now, decision.reasons)
            self._write(_Champions(standing, (*found.events, event)))
        return decision

    def roll_back(self, reason: str) -> Champion:
        """Give the place back to the champion before this one, and return it.

        Raises:
            UsageError: there is none before it.
            BusyError: another process writes right now.
            DataError: the file is damaged.
        """
        if not self.path.exists():
            raise UsageError(f"There is no {self.path}: nothing was promoted yet, so there is none to go back to.")
        with self._locked():
            found = self._read()
            if len(found.standing) < 2:
                raise UsageError(
                    f"{self.path} holds no champion before the current one, so there is none to go back to."
                )
            *earlier, champion, left = found.standing
            event = ChampionEvent(ROLLED_BACK, left.artifact, left.date, champion.artifact, _now(), (reason,))
            self._write(_Champions((*earlier, champion), (*found.events, event)))
        return champion

    def _locked(self) -> AbstractContextManager[None]:
        return held_lock(self.path.with_name(f".{self.path.name}.lock"), f"The champion file {self.path}")

    def _relative(self, artifact: Path) -> str:
        root = self.path.parent.resolve()
        resolved = artifact.resolve()
        if not resolved.is_dir() or root not in resolved.parents:
            raise UsageError(f"The challenger {artifact} is no folder below {root}, where {self.path.name} stands.")
        return resolved.relative_to(root).as_posix()

    def _read(self) -> _Champions:
        if not self.path.exists():
            return _Champions()
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            standing = tuple(Champion(**_typed(entry)) for entry in document["champions"])
            events = tuple(ChampionEvent(**_typed(entry)) for entry in document["events"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"The champion file {self.path} is damaged ({type(error).__name__}: {error}). Put back a copy, or "
                "remove it: the next run's model then becomes the first champion."
            ) from error
        return _Champions(standing, events)

    def _write(self, champions: _Champions) -> None:
        text = f'{{\n  "champions": [{_lines(champions.standing)}],\n  "events": [{_lines(champions.events)}]\n}}\n'
        write_text_atomically(self.path, text)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _lines(entries: Iterable[Champion | ChampionEvent]) -> str:
    """One line each, as the file is read by people and its changes by `diff`."""
    lines = ",".join(f"\n    {json.dumps(asdict(entry), default=str)}" for entry in entries)
    return f"{lines}\n  " if lines else ""


def _typed(entry: Mapping[str, Any]) -> dict[str, Any]:
    for name in (entry["artifact"], entry.get("champion")):
        if name is not None and (PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts):
            raise ValueError("an artifact lies outside the file's folder")
    return {**entry, "date": datetime.date.fromisoformat(entry["date"]), "reasons": tuple(entry["reasons"])}
