"""What an unfinished preparation has finished: one line for every partition that stands whole.

A killed preparation leaves its folder behind. The next one takes over a partition only where the
file's bytes have the digest that its line names; everything else in the folder is removed.
"""

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from recsys.datasets.manifest import FINISHED_PARTS_NAME, FileEntry
from recsys.files import sha256_of_file, write_text_atomically


@dataclass(frozen=True)
class FinishedPart:
    """One partition: its path in the folder, its file's entry, and what was mended in its rows, by a readable name."""

    path: str
    entry: FileEntry
    counts: dict[str, int]


class FinishedParts:
    """The list of finished partitions in the folder `work`, made under the contract with that fingerprint.

    Opening it removes every file that it does not list, so a partition stands under its final name only if it is
    whole.
    """

    def __init__(self, work: Path, contract: str) -> None:
        self._path, self._contract = work / FINISHED_PARTS_NAME, contract
        self._lock = threading.Lock()
        self.parts = {part.path: part for part in self._believed(work)}
        for file in [path for path in work.glob("split=*/**/*") if path.is_file()]:
            if file.relative_to(work).as_posix() not in self.parts:
                file.unlink()
        # Written anew, as a torn last line would swallow the next one.
        write_text_atomically(self._path, "".join(map(self._line, self.parts.values())))

    def add(self, part: FinishedPart) -> None:
        """Note a partition whose file stands under its final name; threads may do so at once."""
        with self._lock, self._path.open("a", encoding="utf-8") as lines:
            lines.write(self._line(part))
            lines.flush()
            os.fsync(lines.fileno())
            self.parts[part.path] = part

    def _line(self, part: FinishedPart) -> str:
        return json.dumps({"contract": self._contract, **asdict(part)}, ensure_ascii=False) + "\n"

    def _believed(self, work: Path) -> list[FinishedPart]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        read = [part for line in lines if (part := self._read(line)) is not None]
        return [part for part in read if _stands(work / part.path, part.entry)]

    def _read(self, line: str) -> FinishedPart | None:
        try:
            document = json.loads(line)
            if document.pop("contract") != self._contract:
                return None
            return FinishedPart(**{**document, "entry": FileEntry(**document["entry"])})
        except (ValueError, KeyError, TypeError, AttributeError):
            # The last line of a process that was killed while it wrote.
            return None


def _stands(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of_file(path) == entry.sha256
