"""The picture of the nights: what is on it, and that nothing breaks it."""

from recsys.tracking.nightly_figure import nights

DATES = ["2011-09-01", "2011-09-02", "2011-09-03", "2011-09-04"]


def labels(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_decisions_states_and_changed_verdicts_are_told_apart() -> None:
    figure = nights(
        DATES,
        [0.71, 0.72, None, 0.7],
        ["done", "done", "stopped", "stale"],
        ["promoted", "refused", "", "promoted"],
        ["", "new: better", "", ""],
    )
    assert labels(figure) == ["promoted", "refused", "stale", "stopped", "verdict changed"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == DATES


def test_nights_of_which_none_has_a_model_are_drawn() -> None:
    figure = nights(DATES[:1], [None], ["failed"], [""], [""])
    assert labels(figure) == ["failed"]
