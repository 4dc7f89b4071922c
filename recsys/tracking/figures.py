"""The figures attached to a run or a study: plain numbers in, a Matplotlib figure out.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which stay apart for colour-blind readers; marks
and line styles differ as well, for print. A figure draws on no screen and holds no global state.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from recsys.metrics.log_loss import LOG_LOSS
from recsys.tracking import names

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values, equally many."""
SeedCurves = Mapping[str, Sequence[Curve]]
"""Label (a run or a condition) -> one curve a seed."""

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
# Tracked name of a curve -> its panel's title, and where its best point is.
_PANELS: dict[str, tuple[str, Callable[[Sequence[float]], Any] | None]] = {
    names.TRAIN_LOSS: ("Training loss", None),
    names.score(names.VALIDATION, LOG_LOSS.name): ("Validation log loss", np.argmin),
    names.auc(names.VALIDATION): ("Validation AUC", np.argmax),
}


def learning_curves(curves: Mapping[str, SeedCurves]) -> Figure:
    """Draw training loss, validation log loss and validation AUC by step, side by side.

    Args:
        curves: tracked name -> curves, of the three as far as there are any. Where every label has one seed,
            the best validation point is marked, and its value written where at most two labels leave room for it.
    """
    labels = list(dict.fromkeys(label for name in _PANELS for label in curves.get(name, {})))
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(_PANELS), height=4.0 if len(labels) > 1 else 3.6)
        for axes, (name, (title, best)) in zip(panels, _PANELS.items(), strict=True):
            drawn = curves.get(name, {})
            for label, seeds in drawn.items():
                _draw_curve(axes, labels.index(label), label, seeds)
            if best is not None and all(len(seeds) == 1 for seeds in drawn.values()):
                for label, [(steps, values)] in drawn.items():
                    if len(values):
                        place = int(best(values))
                        _mark_best(axes, labels.index(label), steps, values, place, with_value=len(labels) <= 2)
            if not drawn:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=_GREY)
            _finish_by_step(axes, title)
        if len(labels) > 1:
            _legend_below(figure, next((axes for axes in panels if axes.lines), panels[0]))
    return figure


def gradient_norms(norms: Mapping[str, SeedCurves]) -> Figure:
    """Draw the L2 norm of each part's gradient, a panel a part, on logarithmic axes that also have a zero.

    Args:
        norms: part -> its curves. Panels share their scale, so that parts compare.
    """
    every = [value for part in norms.values() for seeds in part.values() for _, values in seeds for value in values]
    positive = [value for value in every if value > 0]
    # Below the smallest decade seen the axis is linear down to 0: a frozen tower is a line at the bottom, not a gap.
    threshold = 10.0 ** math.floor(math.log10(min(positive))) if positive else 1.0
    labels = list(dict.fromkeys(label for part in norms.values() for label in part))
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(norms), height=3.6, sharey=True)
        for axes, (part, by_label) in zip(panels, norms.items(), strict=True):
            axes.set_yscale("symlog", linthresh=threshold, linscale=0.4)
            for label, seeds in by_label.items():
                _draw_curve(axes, labels.index(label), label, seeds)
            axes.set_ylim(bottom=-threshold / 4)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            is_frozen = not any(np.any(values) for seeds in by_label.values() for _, values in seeds)
            _finish_by_step(axes, part.replace("_", " ") + (" (0: frozen)" if is_frozen else ""))
        panels[0].set_ylabel("L2 norm before clipping")
        if len(labels) > 1:
            _legend_below(figure, panels[0])
    return figure


def branch_gates(gates: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Draw by step how much each segment lets through of each branch, a panel a branch, a line a segment.

    Args:
        gates: branch -> segment -> its curve.
    """
    segments = list(dict.fromkeys(segment for by_segment in gates.values() for segment in by_segment))
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(gates), height=4.0, sharey=True)
        for axes, (branch, by_segment) in zip(panels, gates.items(), strict=True):
            for segment, curve in by_segment.items():
                _draw_curve(axes, segments.index(segment), segment, [curve])
            _finish_by_step(axes, branch.replace("_", " "))
        panels[0].set_ylabel("Mean gate on validation")
        _legend_below(figure, panels[0])
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
        _legend_below(figure, axes, columns=2)
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
            _legend_below(figure, axes, columns=2)
    return figure


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """Give each arm the colour that figures draw it in, so that MLflow's charts can use the same.

    >>> arm_colours(["frozen", "fine-tuned"])["frozen"]
    '#0072B2'
    """
    return {arm: _colour(index) for index, arm in enumerate(arms)}


def _panels(count: int, height: float, **shared: Any) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(max(5.5, 3.9 * count), height), layout="constrained")
    return figure, list(figure.subplots(1, max(count, 1), squeeze=False, **shared)[0])


def _draw_curve(axes: Axes, index: int, label: str, seeds: Sequence[Curve]) -> None:
    """A line for the mean over seeds, a band from the lowest seed to the highest."""
    steps, values = aligned(seeds)
    low, mean, high = np.nanmin(values, axis=0), np.nanmean(values, axis=0), np.nanmax(values, axis=0)
    style: dict[str, Any] = {"color": _colour(index), "linestyle": _line(index), "linewidth": 1.8}
    if len(steps) < _SMOOTHED_FROM:
        style |= {"marker": ".", "markersize": 5}
    else:
        if len(seeds) == 1:
            axes.plot(steps, mean, color=_colour(index), linewidth=0.7, alpha=0.3)
        low, mean, high = _running_mean(low), _running_mean(mean), _running_mean(high)
    axes.plot(steps, mean, label=label, **style)
    if len(seeds) > 1:
        axes.fill_between(steps, low, high, color=_colour(index), alpha=0.16, linewidth=0)


def aligned(seeds: Sequence[Curve]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The steps (T,) that any of the seeds has, and each seed's values there, (seeds, T); NaN where it has none."""
    steps = np.unique(np.concatenate([np.asarray(curve[0], dtype=np.float64) for curve in seeds]))
    values = np.full((len(seeds), len(steps)), np.nan)
    for row, (at, found) in zip(values, seeds, strict=True):
        row[np.searchsorted(steps, np.asarray(at, dtype=np.float64))] = found
    return steps, values


def _running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Centred, over a window that shrinks at both ends, so that the first and last value are not bent."""
    half = max(1, round(len(values) * _SMOOTHING_SHARE / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, len(values) - 1 - places), half)
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _mark_best(
    axes: Axes, index: int, steps: Sequence[float], values: Sequence[float], best: int, with_value: bool
) -> None:
    colour, step, value = _colour(index), steps[best], values[best]
    ring: dict[str, Any] = {
        "markersize": 8,
        "markerfacecolor": "white",
        "markeredgecolor": colour,
        "markeredgewidth": 1.8,
    }
    axes.plot(step, value, marker="o", linestyle="none", **ring)
    axes.margins(y=0.14)
    if with_value:
        is_high = value >= np.mean(values)
        place: dict[str, Any] = {"xytext": (0, 8 if is_high else -8), "va": "bottom" if is_high else "top"}
        axes.annotate(
            f"{value:.4f}", (step, value), textcoords="offset points", ha="center", fontsize=8, color=colour, **place
        )


def _finish_by_step(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("Step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, max(len(labels), 1)))


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _line(index: int) -> str:
    return _LINES[index // len(COLOURS) % len(_LINES)] if index >= len(COLOURS) else _LINES[index % 2]
