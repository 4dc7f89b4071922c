"""May the challenger take the champion's place, and which artifact is the champion now.

The rule: better over all rows by more than its noise, and in no user segment clearly worse by more than a margin. The
champion is named by one small file that holds its history too, so that naming, remembering and rolling back are each
one atomic write.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from recsys.errors import BusyError, DataError, UsageError
from recsys.files import write_text_atomically
from recsys.locks import held_lock


@dataclass(frozen=True)
class AucDifference:
    """Challenger minus champion in a metric where higher is better, with a paired bootstrap's 95 % interval.

    Both are scored on the same rows and resampled together: their difference varies far less than either score.
    """

    value: float
    low: float
    high: float

    @property
    def is_measured(self) -> bool:
        """False where the metric is undefined, as an AUC over one class is."""
        return all(map(math.isfinite, (self.value, self.low, self.high)))

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes over, and one sentence for each reason."""

    promote: bool
    reasons: tuple[str, ...]


def decide(overall: AucDifference, by_segment: Mapping[str, AucDifference], margin: float) -> Decision:
    """Compare a challenger with the champion.

    A segment stands in the way when the challenger is worse there by more than `margin` and its interval excludes
    zero. Asking for less than both would let the noise of a small segment, or a real but tiny loss, decide for all.

    >>> decide(AucDifference(0.004, 0.001, 0.007), {"new": AucDifference(-0.03, -0.05, -0.01)}, margin=0.01).promote
    False

    Args:
        by_segment: each user segment's difference; one that is not measured is reported and does not decide.
        margin: the loss that a segment may take, in the metric's unit; not negative.
    """
    if not margin >= 0:
        raise UsageError(f"The segments' margin is {margin}; expected 0 or more, in the metric's unit.")
    harmed, reasons = False, []
    is_better = overall.is_measured and overall.low > 0
    if not overall.is_measured:
        reasons.append("Over all rows the difference could not be measured, so the champion stays.")
    elif is_better:
        reasons.append(f"Over all rows the challenger is better by more than its noise: {overall}.")
    else:
        reasons.append(f"Over all rows the challenger is not better by more than its noise: {overall}.")
    for segment, difference in by_segment.items():
        if not difference.is_measured:
            reasons.append(f"Segment `{segment}` could not be measured and did not decide.")
        elif difference.value < -margin and difference.high < 0:
            harmed = True
            reasons.append(f"Segment `{segment}` is worse by more than the margin {margin:g}: {difference}.")
        elif difference.value < -margin:
            reasons.append(f"Segment `{segment}` reads worse, but within its noise: {difference}.")
    return Decision(is_better and not harmed, tuple(reasons))


@dataclass(frozen=True)
class Champion:
    """The model in use.

    Attributes:
        artifact: its folder, relative to the champion file's folder, so that both can move together.
        since: when it took over, UTC.
        reasons: why, as `decide` said it.
    """

    artifact: str
    since: str
    reasons: tuple[str, ...]


class ChampionFile:
    """The file that names the champion, and every champion before it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def current(self) -> Champion | None:
        """Return the champion, or None where there was none yet.

        Raises:
            DataError: the file is damaged.
        """
        champions = self._read()["champions"]
        return champions[-1] if champions else None

    def events(self) -> tuple[dict[str, Any], ...]:
        """Return every promotion and rollback, oldest first.

        Raises:
            DataError: the file is damaged.
        """
        return tuple(self._read()["events"])

    def folder(self, champion: Champion) -> Path:
        """Return the champion's folder."""
        return self.path.parent / champion.artifact

    def promote(self, artifact: Path, instead_of: Champion | None, reasons: tuple[str, ...]) -> Champion:
        """Make `artifact` the champion; the champion already, it stays so and nothing is written.

        Args:
            artifact: a folder below the champion file's folder.
            instead_of: the champion that the challenger was compared with, None where there was none.

        Raises:
            UsageError: the artifact is no folder there.
            BusyError: another run promotes right now, or has replaced `instead_of` since the comparison.
        """
        name = self._relative(artifact)
        with self._locked():
            document = self._read()
            standing = document["champions"][-1] if document["champions"] else None
            if standing is not None and standing.artifact == name:
                return standing
            if standing != instead_of:
                raise BusyError(
                    f"The champion in {self.path} became {_artifact_of(standing)} while {name} was being compared with "
                    f"{_artifact_of(instead_of)}. Compare it with the new champion."
                )
            champion = Champion(name, datetime.now(UTC).isoformat(timespec="seconds"), reasons)
            self._write([*document["champions"], champion], document["events"], "promoted", reasons)
        return champion

    def roll_back(self, reason: str) -> Champion:
        """Give the place back to the champion before this one, and return it.

        Raises:
            UsageError: there is none before it.
            BusyError: another run promotes right now.
        """
        with self._locked():
            document = self._read()
            if len(document["champions"]) < 2:
                raise UsageError(
                    f"{self.path} holds no champion before the current one, so there is none to go back to."
                )
            self._write(document["champions"][:-1], document["events"], "rolled back", (reason,))
            champion: Champion = document["champions"][-2]
        return champion

    def _locked(self) -> Any:
        return held_lock(self.path.with_name(f".{self.path.name}.lock"), f"The champion file {self.path}")

    def _relative(self, artifact: Path) -> str:
        root = self.path.parent.resolve()
        resolved = artifact.resolve()
        if not resolved.is_dir() or root not in resolved.parents:
            raise UsageError(f"The challenger {artifact} is no folder below {root}, where {self.path.name} stands.")
        return resolved.relative_to(root).as_posix()

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"champions": [], "events": []}
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            champions = [Champion(**{**entry, "reasons": tuple(entry["reasons"])}) for entry in document["champions"]]
            names = [PurePosixPath(champion.artifact) for champion in champions]
            if any(name.is_absolute() or ".." in name.parts for name in names):
                raise ValueError("an artifact lies outside the file's folder")
            return {"champions": champions, "events": list(document["events"])}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"The champion file {self.path} is damaged ({type(error).__name__}: {error}). Put back a copy, or "
                "remove it: the next run's model then becomes the first champion."
            ) from error

    def _write(self, champions: list[Champion], events: list[Any], what: str, reasons: tuple[str, ...]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        event = {"what": what, "champion": champions[-1].artifact, "when": now, "reasons": reasons}
        document = {"champions": [asdict(champion) for champion in champions], "events": [*events, event]}
        write_text_atomically(self.path, json.dumps(document, indent=2) + "\n")


def _artifact_of(champion: Champion | None) -> str:
    return "none" if champion is None else champion.artifact
