"""A study's pictures: the forest plot of paired differences by segment."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from recsys.ablation.comparison import Comparison, Difference, Rules, Verdict
from recsys.all_segments import ALL
from recsys.metrics.registry import is_lower_better, label_of

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart; grey for what is open.
COLOURS = {
    Verdict.BETTER: "#009E73",
    Verdict.WORSE: "#D55E00",
    Verdict.EQUIVALENT: "#0072B2",
    Verdict.OPEN: "#8A8A8A",
}
_INK, _SOFT, _FAINT = "#222222", "#555555", "#D9D9D9"


def forest_plot(comparisons: Sequence[Comparison], metric: str, rules: Rules) -> Figure:
    """One panel per contrast, one line per segment: the difference, its interval and its verdict.

    The shaded band is the margin within which differences are of no account. Panels share their scale. Save it with
    `figure.savefig(path)`.
    """
    shown = [(comparison, _lines(comparison, metric)) for comparison in comparisons]
    rows = [max(len(lines), 1) for _, lines in shown]
    heights = [0.42 * count + 0.62 for count in rows]
    figure = Figure(figsize=(11, sum(heights) + 1.15), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    reach = _reach([line for _, lines in shown for line in lines], rules.margins.get(metric, 0.0))
    for axis, (comparison, lines) in zip(axes, shown, strict=True):
        _draw_panel(axis, comparison, lines, reach, rules.margins.get(metric, 0.0))
    axes[-1].set_xlabel(_axis_words(comparisons[0], metric), fontsize=10, color=_INK)
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    _add_legend(figure, rules, metric)
    tall = figure.get_figheight()
    figure.subplots_adjust(left=0.09, right=0.58, top=1 - 0.68 / tall, bottom=0.62 / tall, hspace=0.34)
    return figure


def _lines(comparison: Comparison, metric: str) -> list[Difference]:
    return [entry for entry in comparison.differences if entry.metric == metric]


def _reach(lines: Sequence[Difference], margin: float) -> float:
    """How far the axis goes either way: the widest interval, or three margins where all are narrower."""
    ends = [abs(end) for line in lines for end in (line.low, line.high, line.difference) if end is not None]
    return 1.08 * max([*ends, 3 * margin, 1e-6])


def _draw_panel(axis: Axes, comparison: Comparison, lines: Sequence[Difference], reach: float, margin: float) -> None:
    axis.axvspan(-margin, margin, color="#0072B2", alpha=0.10, linewidth=0)
    axis.axvline(0, color=_INK, linewidth=0.9)
    for place, line in enumerate(lines):
        _draw_line(axis, place, line)
    axis.set_xlim(-reach, reach)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, symmetric=True))
    axis.set_ylim(len(lines) - 0.45, -0.55)
    axis.set_yticks(range(len(lines)), [line.segment for line in lines], fontsize=10)
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == ALL else "normal")
    title = f"{comparison.contrast.first}  minus  {comparison.contrast.second}"
    axis.set_title(title, loc="left", fontsize=10.5, pad=6)
    axis.tick_params(length=0, colors=_INK, labelsize=9.5)
    axis.grid(axis="x", color=_FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(_FAINT)


def _draw_line(axis: Axes, place: int, line: Difference) -> None:
    colour = COLOURS[line.verdict]
    is_overall = line.segment == ALL
    weight, width, marker = ("bold", 2.6, "D") if is_overall else ("normal", 1.8, "o")
    interval = "no interval"
    if line.low is not None and line.high is not None:
        axis.plot([line.low, line.high], [place, place], color=colour, linewidth=width, solid_capstyle="butt")
        interval = f"{line.low:+.4f} to {line.high:+.4f}"
    axis.plot([line.difference], [place], marker=marker, markersize=7, color=colour, markeredgecolor="white")
    beside: Any = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 9.5, "clip_on": False}
    for at, text, ink in (
        (1.03, f"{line.difference:+.4f}", _INK),
        (1.18, interval, _SOFT),
        (1.52, str(line.verdict), colour),
    ):
        axis.text(at, place, text, color=ink, fontweight="normal" if ink == _SOFT else weight, **beside)


def _axis_words(comparison: Comparison, metric: str) -> str:
    first, second = comparison.contrast.first_value, comparison.contrast.second_value
    left, right = (first, second) if is_lower_better(metric) else (second, first)
    words = f"$\\leftarrow$ {left} better     difference in {label_of(metric)}     {right} better $\\rightarrow$"
    return words.replace("_", " ")


def _add_legend(figure: Figure, rules: Rules, metric: str) -> None:
    handles: list[Line2D | Patch] = [
        Line2D(
            [], [], color=colour, linewidth=2.2, marker="o", markersize=6, markeredgecolor="white", label=str(verdict)
        )
        for verdict, colour in COLOURS.items()
    ]
    if metric in rules.margins:
        handles.append(Patch(color="#0072B2", alpha=0.10, label=f"of no account (± {rules.margins[metric]:g})"))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.02, 1.0), ncols=len(handles), frameon=False, fontsize=9.5
    )
