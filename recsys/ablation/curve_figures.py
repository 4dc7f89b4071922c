"""What the arms of a study did by step: a line for the mean over seeds, a band from the lowest seed to the highest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from recsys.tracking.figures import STYLE, Curve, arm_colours, finish_by_step, legend_below, running_mean

SeedCurves = Mapping[str, Sequence[Curve]]
"""Condition -> one curve a seed."""
# Marks keep lines apart that lie on one another, and for readers who see no colours.
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_SMOOTHED_FROM = 60


def learning_curves(curves: Mapping[str, SeedCurves]) -> Figure:
    """Draw panels side by side, one for each of `curves`: title -> condition -> a curve a seed."""
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(curves), height=3.8)
        for axes, (title, by_condition) in zip(panels, curves.items(), strict=True):
            _draw_bands(axes, by_condition)
            finish_by_step(axes, title)
        legend_below(figure, panels[0], columns=3)
    return figure


def gradient_norms(norms: Mapping[str, SeedCurves]) -> Figure:
    """Draw the L2 norm of each part's gradient, a panel a part, on logarithmic axes that also have a zero.

    Args:
        norms: part -> condition -> a curve a seed. Panels share their scale, so that parts compare.
    """
    positive = [
        value for part in norms.values() for seeds in part.values() for _, values in seeds for value in values if value
    ]
    threshold = 10.0 ** math.floor(math.log10(min(positive))) if positive else 1.0
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(norms), height=3.6, sharey=True)
        for axes, (part, by_condition) in zip(panels, norms.items(), strict=True):
            # Below the smallest decade seen the axis is linear down to 0: what stands still is a line, not a gap.
            axes.set_yscale("symlog", linthresh=threshold, linscale=0.4)
            _draw_bands(axes, by_condition)
            axes.set_ylim(bottom=-threshold / 4)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            finish_by_step(axes, part.replace("_", " "))
        panels[0].set_ylabel("L2 norm before clipping")
        legend_below(figure, panels[0], columns=3)
    return figure


def _panels(count: int, height: float, **shared: Any) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(max(5.5, 3.7 * count), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, max(count, 1), squeeze=False, **shared)[0])


def _draw_bands(axes: Axes, by_condition: SeedCurves) -> None:
    colours = arm_colours(list(by_condition))
    for place, (condition, seeds) in enumerate(by_condition.items()):
        steps, values = together(seeds)
        low, mean, high = np.nanmin(values, axis=0), np.nanmean(values, axis=0), np.nanmax(values, axis=0)
        if len(steps) >= _SMOOTHED_FROM:
            low, mean, high = running_mean(low), running_mean(mean), running_mean(high)
        dashes = _DASHES[place % len(_DASHES)]
        axes.plot(steps, mean, color=colours[condition], linestyle=dashes, linewidth=1.8, label=condition)
        axes.fill_between(steps, low, high, color=colours[condition], alpha=0.16, linewidth=0)


def together(seeds: Sequence[Curve]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Every seed's values (seeds, steps) at the steps that any of them has; NaN where one has none."""
    steps = np.unique(np.concatenate([np.asarray(curve[0], dtype=np.float64) for curve in seeds]))
    values = np.full((len(seeds), len(steps)), np.nan)
    for row, (at, found) in zip(values, seeds, strict=True):
        row[np.searchsorted(steps, np.asarray(at, dtype=np.float64))] = found
    return steps, values
