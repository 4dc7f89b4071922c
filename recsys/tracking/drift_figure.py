"""The picture of drift: how far item vectors turned, and how many neighbours they lost, by group of items."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from recsys.tracking.figures import COLOURS, STYLE

_MEASURES = {"cosine_distance": "1 - cosine", "neighbours_lost": "neighbours lost"}
Groups = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Kind of group -> group -> `cosine_distance` and `neighbours_lost`, which may be None."""


def drift_by_group(drift: Mapping[str, Groups]) -> Figure:
    """Draw both measures, a row each, with a column for each kind of group and a bar for each group and label.

    Args:
        drift: label (a run or a condition) -> its figures. A figure that is None gets no bar.
    """
    kinds = list(dict.fromkeys(kind for groups in drift.values() for kind in groups))
    width = 0.8 / max(len(drift), 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.5, 3.2 * len(kinds)), 5.6), layout="constrained")
        panels = figure.subplots(len(_MEASURES), max(len(kinds), 1), squeeze=False, sharey="row", sharex="col")
        for axes, kind in zip(panels[0], kinds, strict=False):
            axes.set_title(kind)
        for row, (measure, title) in zip(panels, _MEASURES.items(), strict=True):
            row[0].set_ylabel(title)
            for axes, kind in zip(row, kinds, strict=False):
                names = list(dict.fromkeys(name for groups in drift.values() for name in groups.get(kind, {})))
                for index, (label, groups) in enumerate(drift.items()):
                    known = {name: each.get(measure) for name, each in groups.get(kind, {}).items()}
                    bars = [(names.index(name), value) for name, value in known.items() if value is not None]
                    places = [place - 0.4 + width * (index + 0.5) for place, _ in bars]
                    heights = [value for _, value in bars]
                    axes.bar(places, heights, width * 0.9, color=COLOURS[index % len(COLOURS)], label=label)
                axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
                axes.grid(visible=False, axis="x")
        if len(drift) > 1:
            handles, labels = panels[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure
