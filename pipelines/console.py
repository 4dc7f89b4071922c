"""What the user sees while a command works: one bar per slow stage, notices, and tables."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from recsys.progress import Progress

_FINISHED_IN_SIGHT = 8
_WIDEST = 10_000
_is_silent = False


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command line end it; the library would end the process with a code of its own."""
        raise BrokenPipeError


console = _Console(highlight=False)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a `Progress` that draws one bar per stage label; plain lines where the output is no terminal."""
    if not console.is_terminal:
        yield _PlainLines()
        return
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar per stage label; only the newest few finished ones stay in sight."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._open: str | None = None

    def __call__(self, label: str, done: int, total: int) -> None:
        if self._open not in (None, label):
            self._end_open_stage()
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total or None)
            self._hide_oldest()
        if not total:
            self._open = label
        self._bars.update(self._tasks[label], completed=done, total=total or None)

    def _end_open_stage(self) -> None:
        # A stage of unknown length says no end; word of any other stage is its end.
        if self._open is not None:
            self._bars.update(self._tasks[self._open], completed=1, total=1)
            self._open = None

    def _hide_oldest(self) -> None:
        finished = [task for task in self._bars.tasks if task.finished and task.visible]
        for task in finished[:-_FINISHED_IN_SIGHT]:
            self._bars.update(task.id, visible=False)


class _PlainLines:
    """One line when a stage starts and one when it ends: a log file wants no redrawn bars."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, bool]] = set()

    def __call__(self, label: str, done: int, total: int) -> None:
        finished = bool(total) and done >= total
        if (label, finished) in self._seen:
            return
        self._seen.add((label, finished))
        console.print(f"{label}: {'done' if finished else 'started'}" + (f" ({total:,})" if total else ""))


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, numbers to the right."""
    # Above the table, not as its title, which would be broken to the table's width.
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    table = Table()
    for position, name in enumerate(header):
        # What a row is about must stay readable where the terminal is narrow; numbers may take two lines, and lose no
        # digit.
        table.add_column(name, justify="left" if position == 0 else "right", no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    # A file or a pipe has no width; there every row is one line.
    full = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    _Console(highlight=False, width=full).print(table)


def be_silent() -> None:
    """Let nothing be printed from now on but what ends the command: another process of the run speaks."""
    global _is_silent
    _is_silent = True
    sys.stdout.flush()
    # By the file's number, so that what libraries print is left out as well.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def warn(message: str) -> None:
    """Print a notice to standard error."""
    if _is_silent:
        return
    Console(file=sys.stderr, highlight=False).print(message, style="yellow", markup=False, soft_wrap=True)


class _Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print what the library has to say as a notice."""
        warn(record.getMessage())


def show_notices() -> None:
    """Let warnings that the library logs be seen as notices, once however often this is called."""
    ours = logging.getLogger("recsys")
    if not any(isinstance(each, _Notices) for each in ours.handlers):
        ours.addHandler(_Notices())
