"""Figures: what a reader must be able to see in them."""

import math
from io import BytesIO

import pytest
from matplotlib.figure import Figure

from recsys.tracking import names
from recsys.tracking.figures import (
    aligned,
    arm_colours,
    auc_by_segment,
    branch_gates,
    calibration,
    gradient_norms,
    learning_curves,
)


def words(figure: Figure) -> set[str]:
    """Everything that is written in a figure, after drawing it for real."""
    figure.savefig(BytesIO(), format="png")
    found = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    for axes in figure.axes:
        found |= {axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()}
        found |= {text.get_text() for text in axes.texts}
        found |= {label.get_text() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]}
        legend = axes.get_legend()
        found |= {text.get_text() for text in legend.get_texts()} if legend else set()
    return found


def test_learning_curves_name_their_axes_and_tell_the_best_validation_point():
    curve = ([100, 200, 300], [0.60, 0.50, 0.55])

    arms = {"frozen": [curve]}
    shown = words(
        learning_curves(
            {names.TRAIN_LOSS: arms, names.score(names.VALIDATION, "log_loss"): arms, names.auc(names.VALIDATION): arms}
        )
    )

    assert {"Training loss", "Validation log loss", "Validation AUC", "Step"} <= shown
    # The lowest log loss and the highest AUC.
    assert {"0.5000", "0.6000"} <= shown


def test_gates_have_a_panel_a_branch_and_a_line_a_segment():
    figure = branch_gates({"embedding_tower": {"new": ([1, 2], [0.5, 0.4]), "heavy": ([1, 2], [0.5, 0.8])}})

    assert {"embedding tower", "new", "heavy", "Mean gate on validation"} <= words(figure)
    assert [len(axes.lines) for axes in figure.axes] == [2]


def test_learning_curves_of_several_arms_share_one_legend():
    curve = ([1, 2], [0.6, 0.5])

    figure = learning_curves({names.TRAIN_LOSS: {"frozen": [curve], "fine-tuned": [curve, curve]}})

    assert {"frozen", "fine-tuned", "not measured"} <= words(figure)
    assert len(figure.legends) == 1


def test_a_frozen_towers_zero_norm_is_a_visible_line_on_the_logarithmic_axis():
    figure = gradient_norms(
        {"embedding_tower": {"frozen": [([1, 2, 3], [0, 0, 0])]}, "head": {"frozen": [([1, 2, 3], [0.02, 0.5, 7.0])]}}
    )

    assert {"embedding tower (0: frozen)", "head", "0", "1"} <= words(figure)
    axes = figure.axes[0]
    bottom, top = axes.get_ylim()
    height = axes.transAxes.inverted().transform(axes.transData.transform((1, 0)))[1]
    assert bottom < 0 < top
    # Neither on the edge nor far up: about a tenth of the axis.
    assert 0.01 < height < 0.2


def test_gradient_norms_that_are_all_zero_can_be_drawn():
    assert "embedding tower (0: frozen)" in words(gradient_norms({"embedding_tower": {"x": [([1, 2], [0.0, 0.0])]}}))


def test_calibration_shows_every_arm_beside_the_perfect_line():
    shown = words(calibration({"frozen": [(0.1, 0.12, 50.0), (0.3, 0.25, 50.0)], "empty": []}))

    assert {"frozen", "perfectly calibrated", "Predicted probability", "Share of positives"} <= shown


def test_a_segment_without_an_auc_gets_no_bar_and_no_number():
    figure = auc_by_segment(
        {"frozen": {"all": (0.7, 0.68, 0.72), "new": (0.6, 0.5, 0.7)}, "tuned": {"all": (0.8, 0.79, 0.81)}}
    )

    shown = words(figure)
    assert {"all", "new", "0.700", "0.600", "0.800"} <= shown
    assert len(figure.axes[0].patches) == 3
    # A bar starts at chance: one from 0 would make 0.70 and 0.72 look alike.
    assert figure.axes[0].patches[0].get_x() == pytest.approx(0.5)


def test_an_arm_has_one_colour_everywhere():
    colours = arm_colours(["frozen", "tuned"])
    figure = learning_curves({names.TRAIN_LOSS: {"frozen": [([1], [1.0])], "tuned": [([1], [1.0])]}})

    assert [line.get_color() for line in figure.axes[0].lines] == [colours["frozen"], colours["tuned"]]


def test_several_seeds_are_a_line_for_their_mean_and_a_band_and_one_seed_is_a_line():
    figure = learning_curves({names.TRAIN_LOSS: {"frozen": [([1, 2], [0.6, 0.4]), ([1, 2], [0.8, 0.6])]}})

    (line,), (band,) = figure.axes[0].lines, figure.axes[0].collections
    assert line.get_ydata().tolist() == pytest.approx([0.7, 0.5])
    assert {round(height, 6) for _, height in band.get_paths()[0].vertices} == {0.6, 0.8, 0.4}
    assert not learning_curves({names.TRAIN_LOSS: {"frozen": [([1, 2], [0.6, 0.4])]}}).axes[0].collections


def test_arms_that_stopped_early_still_have_a_band_where_the_others_go_on():
    steps, values = aligned([([0, 10, 20], [0.7, 0.6, 0.5]), ([0, 10], [0.8, 0.7])])
    assert list(steps) == [0, 10, 20]
    assert values[0].tolist() == [0.7, 0.6, 0.5]
    assert values[1][:2].tolist() == [0.8, 0.7]
    assert math.isnan(values[1][2])
