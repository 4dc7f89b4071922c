"""The picture of `recsys status`: how the nights' models fared, and which of them took over."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from recsys.tracking.figures import COLOURS, STYLE

_GREY = "#6b7280"


def nights(
    dates: Sequence[str],
    aucs: Sequence[float | None],
    states: Sequence[str],
    decisions: Sequence[str],
    verdicts: Sequence[str],
) -> Figure:
    """Draw each night's AUC on its newest rows, filled where its model became champion, and the nights without one.

    A dashed line stands where a study's verdict changed.

    Args:
        dates: YYYY-MM-DD, in order; the others have one value for each.
        states: "done", "stale", "failed" and so on.
        decisions: "promoted", "refused" or "".
        verdicts: what changed in the study of that night; "" for nothing.
    """
    places = range(len(dates))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, 0.34 * len(dates) + 2.4), 3.8), layout="constrained")
        axes = figure.subplots()
        known = [(place, auc) for place, auc in zip(places, aucs, strict=True) if auc is not None]
        axes.plot(*zip(*known, strict=True) if known else ([], []), color=COLOURS[0], linewidth=1.2, alpha=0.6)
        for decision, face in (("promoted", COLOURS[0]), ("refused", "white")):
            chosen = [(place, auc) for place, auc in known if decisions[place] == decision]
            if chosen:
                x, y = zip(*chosen, strict=True)
                axes.scatter(x, y, label=decision, facecolor=face, edgecolor=COLOURS[0], s=48, zorder=3)
        # Of the states that are no good end, each with its colour, at the bottom of the picture.
        for number, state in enumerate(sorted({*states} - {"done"})):
            chosen_places = [place for place in places if states[place] == state]
            bottom = axes.get_xaxis_transform()
            colour = COLOURS[1 + number % (len(COLOURS) - 1)]
            axes.scatter(
                chosen_places, [0.03] * len(chosen_places), transform=bottom, marker="X", color=colour, label=state
            )
        changed = [place for place in places if verdicts[place]]
        for place in changed:
            label = "verdict changed" if place == changed[0] else None
            axes.axvline(place, color=_GREY, linestyle="--", linewidth=1.0, label=label)
        axes.set_xticks([*places], dates, rotation=90 if len(dates) > 8 else 0, fontsize=8)
        axes.set_ylabel("AUC on the newest rows")
        axes.set_title("Nights")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=_GREY)
    return figure
