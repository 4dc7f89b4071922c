"""The pictures of `growth.py`: microseconds a row and megabytes a process, by rows and by rows of tables."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recsys.tracking.figures import STYLE

Numbers = Mapping[str, Any]
_COLOURS, _MARKS = ("#2563eb", "#d97706", "#059669", "#9333ea"), "os^D"
_LINES = ("--", "-")


def draw(results: Mapping[str, Numbers], path: Path) -> None:
    """Draw the measured cases, by the names that `growth.py` gives them, as an SVG file."""
    cases = {
        tuple(int(part) for part in name.split("/")): found for name, found in results.items() if name[0].isdigit()
    }
    fewest_rows, least_tables = min(case[0] for case in cases), min(case[1] for case in cases)
    by_rows = {case: found for case, found in cases.items() if case[1] == least_tables}
    by_tables = {case: found for case, found in cases.items() if case[0] == fewest_rows}
    with mpl.rc_context({**STYLE, "svg.hashsalt": "recsys", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.6, 6.4), layout="constrained")
        above, below = figure.subplots(2, 2)
        _panel(above[0], by_rows, 0, {"reading": _per_row("pass"), "training": _per_row("train")})
        above[0].set(title="Processor time of a row", ylabel="us", xlabel="rows", yscale="log")
        _panel(above[1], by_rows, 0, {"reading": _of("pass_mb"), "training": _of("train_mb")})
        above[1].set(title="Memory of a process, by rows", ylabel="MB", xlabel="rows", ylim=(0, None))
        _panel(below[0], by_tables, 1, {"tables": _of("table_mb"), "start": _of("start_mb")})
        below[0].set(title="Memory of a process, by tables", ylabel="MB", xlabel="rows of all tables", yscale="log")
        _panel(below[1], by_tables, 1, {"start": _of("start_cpu_seconds"), "checkpoint": _of("checkpoint_cpu_seconds")})
        below[1].set(title="Processor time of a process", ylabel="s", xlabel="rows of all tables", yscale="log")
        sizes = [line for line in above[0].get_lines() if line.get_linestyle() == "-"]
        names = [f"{size} process{'es' if size > 1 else ''}" for size in sorted({case[2] for case in cases})]
        figure.legend(sizes, names, loc="outside lower center", ncols=len(names))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _of(name: str) -> Callable[[Numbers], float]:
    return lambda found: float(found[name])


def _per_row(phase: str) -> Callable[[Numbers], float]:
    return lambda found: 1e6 * float(found[f"{phase}_cpu_seconds"]) / float(found[f"{phase}_rows"])


def _panel(
    axes: Axes,
    cases: Mapping[tuple[int, ...], Numbers],
    grows: int,
    measures: Mapping[str, Callable[[Numbers], float]],
) -> None:
    """A line for each number of processes and measure: the first measure dashed, the second solid."""
    sizes: Sequence[int] = sorted({case[2] for case in cases})
    for number, size in enumerate(sizes):
        own = sorted((case[grows], case) for case in cases if case[2] == size)
        for measure, line in zip(measures.values(), _LINES, strict=True):
            heights = [measure(cases[case]) for _, case in own]
            places = [place for place, _ in own]
            axes.plot(places, heights, line, marker=_MARKS[number], color=_COLOURS[number], markersize=4)
    axes.set_xscale("log")
    key = [Line2D([], [], color="#374151", linestyle=line) for line in _LINES]
    axes.legend(key, list(measures), fontsize=8)
