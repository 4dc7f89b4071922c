"""What the user sees while a command works: one bar per slow stage, notices, and tables."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from recsys.progress import Progress

console = Console(highlight=False)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a `Progress` that draws one bar per stage label; plain lines where the output is no terminal."""
    if not console.is_terminal:
        yield _PlainLines()
        return
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total or None)
            bars.update(tasks[label], completed=done, total=total or None)

        yield draw


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
    table = Table(title=title, title_justify="left", title_style="bold")
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def warn(message: str) -> None:
    """Print a notice to standard error."""
    Console(file=sys.stderr, highlight=False).print(f"[yellow]{message}[/yellow]")
