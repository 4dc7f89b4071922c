"""What the forest plot promises: every difference of every contrast, with its verdict, on one scale."""

from recsys.ablation.comparison import Verdict
from recsys.ablation.forest_plot import COLOURS, forest_plot
from tests.ablation.studies_by_hand import RULES, comparison, difference


def _figure():
    conditional = comparison(
        difference(Verdict.BETTER, 0.001, 0.007),
        difference(Verdict.WORSE, -0.02, -0.01, segment="cold"),
        difference(Verdict.OPEN, -0.05, 0.04, segment="héavy"),
    )
    return forest_plot(
        [conditional, comparison(difference(Verdict.EQUIVALENT, -0.001, 0.001), composition="parallel")], "auc", RULES
    )


def test_every_line_shows_its_numbers_and_verdict():
    panel = _figure().axes[0]
    words = {text.get_text() for text in panel.texts}
    assert {"+0.0040", "+0.0010 to +0.0070", "better", "-0.0150", "worse", "not enough evidence"} <= words
    assert [label.get_text() for label in panel.get_yticklabels()] == ["all", "cold", "héavy"]


def test_panels_share_a_scale_on_which_no_interval_is_cut_and_zero_is_in_the_middle():
    first, second = _figure().axes
    assert first.get_xlim() == second.get_xlim()
    low, high = first.get_xlim()
    assert low < -0.05
    assert low == -high


def test_an_interval_is_drawn_in_the_colour_of_its_verdict():
    panel = _figure().axes[0]
    drawn = {tuple(line.get_xdata()): line.get_color() for line in panel.lines if len(line.get_xdata()) == 2}
    assert drawn[(-0.02, -0.01)] == COLOURS[Verdict.WORSE]


def test_the_side_on_which_the_first_is_better_is_named_for_the_metric_that_falls_too():
    rising = _figure().axes[-1].get_xlabel()
    assert rising.index("end to end better") < rising.index("frozen tower better")
    falling = forest_plot([comparison(difference(Verdict.BETTER, -0.2, -0.1, metric="log_loss"))], "log_loss", RULES)
    label = falling.axes[0].get_xlabel()
    assert label.index("frozen tower better") < label.index("end to end better")


def test_the_picture_can_be_saved(tmp_path):
    _figure().savefig(tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 10_000
