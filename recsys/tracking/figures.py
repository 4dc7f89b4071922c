"""The figures attached to a run or a study: plain numbers in, a Matplotlib figure out.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which stay apart for colour-blind readers; marks
and line styles differ as well, for print. A figure draws on no screen and holds no global state.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values, equally many."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#6b7280"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
# Below this number of points a curve is drawn as it is; above it a running mean is drawn over the pale raw curve.
_SMOOTHED_FROM = 60
_SMOOTHING_SHARE = 0.04
_CHANCE = 0.5


def learning_curves(
    train_loss: Mapping[str, Curve], valid_log_loss: Mapping[str, Curve], valid_auc: Mapping[str, Curve]
) -> Figure:
    """Draw training loss, validation log loss and validation AUC by step, side by side, one line a label.

    Args:
        train_loss, valid_log_loss, valid_auc: label (a run or an arm) -> curve. The best validation point is
            marked, and its value told where at most two labels leave room for it.
    """
    labels = list(dict.fromkeys([*train_loss, *valid_log_loss, *valid_auc]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.0 if len(labels) > 1 else 3.6), layout="constrained")
        panels = figure.subplots(1, 3)
        titles = ("Training loss", "Validation log loss", "Validation AUC")
        best_of = (None, np.argmin, np.argmax)
        for axes, title, curves, best in zip(
            panels, titles, (train_loss, valid_log_loss, valid_auc), best_of, strict=True
        ):
            for label, (steps, values) in curves.items():
                _draw_curve(axes, labels.index(label), label, steps, values)
                if best is not None and len(values):
                    _mark_best(axes, labels.index(label), steps, values, int(best(values)), tell=len(labels) <= 2)
            finish_by_step(axes, title)
            if not curves:
                _say_nothing_to_show(axes)
        if len(labels) > 1:
            legend_below(figure, panels[0] if train_loss else panels[1])
    return figure


def gradient_norms(norms: Mapping[str, Curve]) -> Figure:
    """Draw the L2 norm of each part's gradient by step on a logarithmic axis that also has a zero.

    Args:
        norms: part -> curve; a part whose norm is 0 throughout is labelled as standing still.
    """
    positive = [value for _, values in norms.values() for value in values if value > 0]
    # Below the smallest decade seen, the axis is linear down to 0: a frozen tower is a line at the bottom, not a gap.
    threshold = 10.0 ** math.floor(math.log10(min(positive))) if positive else 1.0
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.4)
        for index, (part, (steps, values)) in enumerate(norms.items()):
            stands_still = len(values) > 0 and not np.any(values)
            label = f"{_spoken(part)} (0: frozen)" if stands_still else _spoken(part)
            _draw_curve(axes, index, label, steps, values, width=3.0 if stands_still else 1.8)
        axes.set_ylim(bottom=-threshold / 4)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("L2 norm before clipping")
        finish_by_step(axes, "Gradient norm by part of the ranker")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def calibration(bins: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Draw a reliability diagram: how often rows of a predicted probability turned out positive.

    Args:
        bins: label -> (predicted, observed, weight) a bin, as `evaluation.reliability` makes them.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.2 + 0.22 * len(bins)), layout="constrained")
        axes = figure.subplots()
        reach = max([0.02, *(max(p, y) for rows in bins.values() for p, y, _ in rows)]) * 1.06
        axes.plot([0, reach], [0, reach], color=_GREY, linestyle=":", linewidth=1.4, label="perfectly calibrated")
        for index, (label, rows) in enumerate(bins.items()):
            predicted, observed, weight = np.array(rows, dtype=np.float64).reshape(-1, 3).T
            axes.plot(predicted, observed, color=_colour(index), linestyle=_line(index), linewidth=1.6, alpha=0.9)
            axes.scatter(
                predicted,
                observed,
                s=18 + 60 * weight / max(weight.max(initial=0.0), 1e-12),
                color=_colour(index),
                marker=_MARKS[index % len(_MARKS)],
                edgecolor="white",
                linewidth=0.6,
                label=label,
                zorder=3,
            )
        axes.set(xlim=(0, reach), ylim=(0, reach), xlabel="Predicted probability", ylabel="Share of positives")
        axes.set_aspect("equal")
        axes.set_title("Calibration")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(PercentFormatter(1.0))
        legend_below(figure, axes, columns=2)
    return figure


def auc_by_segment(scores: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """Draw AUC by user segment as bars that start at chance, with 95 % intervals.

    Args:
        scores: label (a run or an arm) -> segment -> (value, low, high). A segment without an AUC is left out of its
            mapping and gets no bar.
    """
    segments = list(dict.fromkeys(segment for by_segment in scores.values() for segment in by_segment))
    height = 0.8 / max(len(scores), 1)
    with mpl.rc_context(STYLE):
        rows = len(segments) * max(len(scores), 1)
        figure = Figure(figsize=(8, 1.6 + 0.26 * rows + 0.25 * len(segments)), layout="constrained")
        axes = figure.subplots()
        for index, (label, by_segment) in enumerate(scores.items()):
            places = np.array([segments.index(segment) for segment in by_segment]) - 0.4 + height * (index + 0.5)
            values, lows, highs = np.array(list(by_segment.values()) or np.empty((0, 3))).T
            axes.barh(places, values - _CHANCE, height * 0.86, left=_CHANCE, color=_colour(index), label=label)
            errors = np.clip([values - lows, highs - values], 0, None)
            axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="#111827", elinewidth=1.1, capsize=2.5)
            for place, value, high in zip(places, values, highs, strict=True):
                axes.annotate(
                    f"{value:.3f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5
                )
        axes.axvline(_CHANCE, color=_GREY, linewidth=1)
        axes.set_yticks(range(len(segments)), segments)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set_xlabel("AUC (0.5 is chance; whiskers: 95 % interval)")
        axes.set_title("AUC by user segment")
        if len(scores) > 1:
            legend_below(figure, axes, columns=2)
    return figure


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """Give each arm the colour that figures draw it in, so that MLflow's charts can use the same.

    >>> arm_colours(["frozen", "fine-tuned"])["frozen"]
    '#0072B2'
    """
    return {arm: _colour(index) for index, arm in enumerate(arms)}


def _draw_curve(
    axes: Axes, index: int, label: str, steps: Sequence[float], values: Sequence[float], width: float = 1.8
) -> None:
    style: dict[str, Any] = {"color": _colour(index), "linestyle": _line(index), "linewidth": width}
    if len(values) < _SMOOTHED_FROM:
        axes.plot(steps, values, label=label, marker=".", markersize=5, **style)
        return
    axes.plot(steps, values, color=_colour(index), linewidth=0.7, alpha=0.3)
    axes.plot(steps, running_mean(np.asarray(values, dtype=np.float64)), label=label, **style)


def running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Centred, over a window that shrinks at both ends, so that the first and last value are not bent."""
    half = max(1, round(len(values) * _SMOOTHING_SHARE / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, len(values) - 1 - places), half)
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _mark_best(axes: Axes, index: int, steps: Sequence[float], values: Sequence[float], best: int, tell: bool) -> None:
    colour, step, value = _colour(index), steps[best], values[best]
    ring: dict[str, Any] = {
        "markersize": 8,
        "markerfacecolor": "white",
        "markeredgecolor": colour,
        "markeredgewidth": 1.8,
    }
    axes.plot(step, value, marker="o", linestyle="none", **ring)
    axes.margins(y=0.14)
    if tell:
        is_high = value >= np.mean(values)
        place: dict[str, Any] = {"xytext": (0, 8 if is_high else -8), "va": "bottom" if is_high else "top"}
        axes.annotate(
            f"{value:.4f}", (step, value), textcoords="offset points", ha="center", fontsize=8, color=colour, **place
        )


def finish_by_step(axes: Axes, title: str) -> None:
    """Give axes their title, and a horizontal axis of whole steps."""
    axes.set_title(title)
    axes.set_xlabel("Step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _say_nothing_to_show(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=_GREY)


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Put the legend of one panel under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, max(len(labels), 1)))


def _spoken(part: str) -> str:
    return part.replace("_", " ")


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _line(index: int) -> str:
    return _LINES[index // len(COLOURS) % len(_LINES)] if index >= len(COLOURS) else _LINES[index % 2]
