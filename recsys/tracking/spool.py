"""A run's local record: one line of JSON per event, written by training and sent later by `delivery`.

A line costs the training loop microseconds where a call to the tracking store costs milliseconds or, with the server
away, minutes. Every line is handed to the operating system at once, so a killed process loses none of them; a line torn
by a crash of the machine is cut off when the spool is opened again.

One run owns one folder:

    lines.jsonl      what happened, in order
    files/           what was attached, kept here until it was sent
    delivery.json    how far the lines were sent, and to which store
    lock             held by the run's process, or by whoever sends the lines afterwards
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from recsys.errors import CannotWriteError, DataError
from recsys.locks import held_lock
from recsys.tracking import names

# Names on disk: spools that runs of earlier versions left are sent and resumed by them.
LINES, FILES, LOCK = "lines.jsonl", "files", "lock"

# Of a spool's end: more than most last lines.
_TAIL_BYTES = 65_536

Line = dict[str, Any]


def now_milliseconds() -> int:
    """The wall clock as MLflow counts it."""
    return time.time_ns() // 1_000_000


class Spool:
    """Writer of one run's lines; holds the spool's lock until it is closed.

    >>> import tempfile
    >>> with Spool.create(Path(tempfile.mkdtemp()), {"name": "frozen/s0"}) as spool:
    ...     spool.write_metrics(1, {"train/loss": 0.7})
    ...     [line["kind"] for line, _ in read_lines(spool.folder)]
    ['run', 'metrics']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A stack, as the lock outlives this call: it ends with `close`.
        self._lock = ExitStack()
        self._lock.enter_context(held_lock(folder / LOCK, f"The spool {folder}"))
        _cut_torn_line(folder / LINES)
        self._logged_steps, self._final = _logged_so_far(folder)
        # O_APPEND puts each write at the end, and one write is one line: no buffer of ours can die with the process.
        self._handle = os.open(folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._is_closed = False

    @classmethod
    def create(cls, parent: Path, run: Mapping[str, Any]) -> "Spool":
        """Start the spool of a new run in a folder of its own under `parent`.

        Args:
            run: what the store must know to create the run; becomes the first line.

        Raises:
            CannotWriteError: `parent` cannot be written; said before training starts.
        """
        # The time first, so that a listing shows runs in order.
        folder = parent / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:12]}"
        spool = cls(folder)
        spool.write("run", {**run, "spool_id": spool.spool_id})
        return spool

    @classmethod
    def resume(cls, parent: Path, spool_id: str) -> "Spool":
        """Go on writing the spool of a run that ended or died.

        Raises:
            DataError: there is no such spool under `parent`.
            BusyError: its run is still alive.
        """
        folder = parent / spool_id
        if not (folder / LINES).is_file():
            raise DataError(
                f"There is no run to resume at {folder}: expected the file {LINES}. Start a new run, or name the "
                "runs folder in which the first one was started."
            )
        spool = cls(folder)
        spool.write("resumed", {})
        return spool

    @property
    def spool_id(self) -> str:
        """Names this run for `resume`; also a tag of the run in the store."""
        return self.folder.name

    def write(self, kind: str, event: Mapping[str, Any]) -> None:
        """Append one event; it survives the death of this process as soon as this returns."""
        line = json.dumps({"kind": kind, "time": now_milliseconds(), **event}, separators=(",", ":")) + "\n"
        text = line.encode()
        try:
            written = os.write(self._handle, text)
        except OSError as error:
            raise CannotWriteError(f"Cannot write {self.folder / LINES}: {error.strerror}. Free some space.") from error
        if written < len(text):
            # A full disk takes half a line, and the next one would be glued to it.
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
            raise CannotWriteError(f"Cannot write {self.folder / LINES}: the disk is full. Free some space.")

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of one step, but for those that were written for this step or a later one before.

        A resumed run repeats the steps after its checkpoint, and a store keeps two points for one step if it gets two.
        """
        highest = self._logged_steps
        fresh = {name: value for name, value in metrics.items() if step > highest.get(name, -1)}
        if not fresh:
            return
        for name in fresh:
            if name not in highest:
                names.checked_key(name)
            highest[name] = step
        self.write("metrics", {"step": step, "metrics": fresh})

    def write_final(self, metrics: Mapping[str, float], about: Mapping[str, str]) -> None:
        """Append scores that a run has once, but for those that it holds with the same value already.

        A run that is resumed after its end and trained further gets new scores; the store shows the latest.
        """
        fresh = {names.checked_key(name): value for name, value in metrics.items() if self._final.get(name) != value}
        if fresh:
            self._final |= fresh
            # At step 0: the chart page draws a bar for a metric without steps, and a line of one point for any other.
            self.write("metrics", {"step": 0, "metrics": fresh, "is_final": True, **about})

    def highest_step(self, metric: str) -> int:
        """The last step that has this metric; -1 where it has none."""
        return self._logged_steps.get(metric, -1)

    def file_place(self, name: str) -> Path:
        """A fresh path under the spool for a file that `name`s an attachment; its folder exists."""
        place = self.folder / FILES / uuid.uuid4().hex[:12] / name
        place.parent.mkdir(parents=True)
        return place

    def close(self) -> None:
        """Keep the lines for good and let others send them; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            # To the disk itself, against a crash of the whole machine.
            os.fsync(self._handle)
            os.close(self._handle)
            self._lock.close()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_lines(folder: Path, offset: int = 0) -> Iterator[tuple[Line, int]]:
    """Yield each whole line from `offset` bytes on, with the offset behind it.

    Raises:
        DataError: a line in the middle is no JSON; names the file and the byte.
    """
    path = folder / LINES
    with path.open("rb") as stream:
        stream.seek(offset)
        yield from _whole_lines(stream, path, offset)


def lines_size(folder: Path) -> int:
    """Bytes of a spool's lines."""
    return (folder / LINES).stat().st_size


def last_line(folder: Path) -> Line:
    """The last whole line; {} where there is none. Only the end of a long spool is read."""
    size = lines_size(folder)
    with (folder / LINES).open("rb") as stream:
        for length in (_TAIL_BYTES, size):
            stream.seek(max(0, size - length))
            # Of a piece the first line may be half of one, and what follows the last end of a line is one's beginning.
            *whole, _ = stream.read().split(b"\n")
            if len(whole) > 1 or (whole and length >= size):
                last: Line = json.loads(whole[-1])
                return last
    return {}


def spools_in(parent: Path) -> list[Path]:
    """The folders of all spools, oldest first."""
    return sorted(path.parent for path in parent.glob(f"*/{LINES}"))


def discard_files(folder: Path) -> None:
    """Free the space of attachments that were sent; the lines stay, a resumed run needs them."""
    shutil.rmtree(folder / FILES, ignore_errors=True)


def _whole_lines(stream: IO[bytes], path: Path, offset: int) -> Iterator[tuple[Line, int]]:
    for text in stream:
        if not text.endswith(b"\n"):
            return  # half of a line: its writer is at it, or died; the next call begins with it again
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"The spool {path} is damaged at byte {offset} ({error}); expected one JSON object a line. Cut the "
                "line out to send the rest."
            ) from error
        offset += len(text)
        yield line, offset


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _logged_so_far(folder: Path) -> tuple[dict[str, int], dict[str, float]]:
    """The last step of each metric by step, and the last value of each final one."""
    highest: dict[str, int] = {}
    final: dict[str, float] = {}
    if (folder / LINES).exists():
        for line, _ in read_lines(folder):
            if line["kind"] == "metrics" and line.get("is_final"):
                final |= line["metrics"]
            elif line["kind"] == "metrics":
                highest |= {name: max(highest.get(name, -1), line["step"]) for name in line["metrics"]}
    return highest, final
