"""What the verdict's words promise: what to do, for whom, with numbers, and no answer where there is none."""

from dataclasses import replace

import pytest

from recsys.ablation.arms import Contrast
from recsys.ablation.comparison import Comparison, Difference, Verdict
from recsys.ablation.planning import MOST_SEEDS
from recsys.ablation.verdict import verdict_paragraph
from tests.ablation.studies_by_hand import RULES, comparison, difference

COSTS = {
    "frozen/conditional": {"seconds_per_step": 0.012, "trained_parameters": 1_234},
    "end_to_end/conditional": {"seconds_per_step": 0.020, "trained_parameters": 5_000_000},
}


def _said(*differences, costs=None, metric="auc") -> str:
    return verdict_paragraph([comparison(*differences)], metric, RULES, costs or {})


def test_a_win_says_what_to_do_by_how_much_and_on_what_it_rests():
    assert _said(difference(Verdict.BETTER, 0.0010, 0.0070)) == (
        "With composition conditional freeze the tower. Overall, frozen_tower is better than end_to_end by 0.0040 AUC "
        "(95 % interval 0.0010 to 0.0070; 3 seeds, 5,412 users)."
    )


def test_a_loss_names_the_winner_and_turns_the_interval_its_way():
    said = _said(difference(Verdict.WORSE, -0.0070, -0.0010))
    assert said.startswith("With composition conditional fine-tune the tower.")
    assert "end_to_end is better than frozen_tower by 0.0040 AUC (95 % interval 0.0010 to 0.0070" in said


def test_of_log_loss_a_lower_figure_is_told_as_a_gain():
    said = _said(difference(Verdict.BETTER, -0.02, -0.01, metric="log_loss"), metric="log_loss")
    assert "better than end_to_end by 0.0150 log loss (95 % interval 0.0100 to 0.0200" in said


def test_an_equivalent_arm_that_costs_less_wins_for_free():
    said = _said(difference(Verdict.EQUIVALENT, -0.0010, 0.0012), costs=COSTS)
    assert "freeze the tower, which costs less and loses nothing." in said
    assert "all of it within 0.002 either way" in said
    assert "A step of frozen_tower takes 0.60 times as long (12.0 ms against 20.0 ms)" in said
    assert "trains 1,234 parameters against 5,000,000." in said


def test_a_better_arm_that_costs_less_says_both():
    said = _said(difference(Verdict.BETTER, 0.0010, 0.0070), costs=COSTS)
    assert said.startswith("With composition conditional freeze the tower, which costs less as well.")
    dearer = {condition: COSTS[other] for condition, other in zip(COSTS, reversed(COSTS), strict=True)}
    said = _said(difference(Verdict.BETTER, 0.0010, 0.0070), costs=dearer)
    assert said.startswith("With composition conditional freeze the tower. Overall")


def test_equivalent_arms_of_unknown_cost_are_a_free_choice():
    assert "With composition conditional either will do." in _said(difference(Verdict.EQUIVALENT, -0.001, 0.001))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seeds_to_settle": 7}, "about 4 more seeds would settle it"),
        ({"seeds_to_settle": 4}, "about 1 more seed would settle it"),
        ({"seeds_to_settle": MOST_SEEDS}, "it would take 1,000 seeds or more to settle"),
        ({}, "more seeds alone would not settle it, the 5,412 test users leave too much to chance"),
        ({"seeds": 1, "seed_deviation": None}, "run at least two more"),
        ({"users": 2, "user_deviation": None}, "2 users are too few for an interval"),
    ],
)
def test_an_open_question_is_called_open_and_says_what_would_settle_it(changed, words):
    said = _said(difference(Verdict.OPEN, -0.001, 0.007, **changed))
    assert "not enough evidence to choose between frozen_tower and end_to_end" in said
    assert "+0.0030 AUC" in said
    assert words in said


def test_a_segments_interval_that_leaves_0_out_by_too_little_is_explained():
    overall = difference(Verdict.BETTER, 0.001, 0.007)

    def said_of(low: float) -> str:
        return _said(overall, difference(Verdict.OPEN, low, 0.007, segment="new", p_value=0.08, seeds_to_settle=4))

    assert "new (+0.0036; the interval leaves 0 out, but not by enough for one segment of several; about" in said_of(
        0.0002
    )
    assert "leaves 0 out" not in said_of(-0.0002)


def test_segments_are_told_by_who_wins_them():
    said = _said(
        difference(Verdict.BETTER, 0.001, 0.007),
        difference(Verdict.BETTER, 0.010, 0.020, segment="cold"),
        difference(Verdict.WORSE, -0.008, -0.004, segment="heavy"),
        difference(Verdict.EQUIVALENT, -0.001, 0.001, segment="light"),
        difference(Verdict.OPEN, -0.009, 0.011, segment="regular", seeds_to_settle=9),
    )
    assert "In the segment cold (by 0.0150, 95 % interval 0.0100 to 0.0200) frozen_tower is better." in said
    assert "In the segment heavy (by 0.0060, 95 % interval 0.0040 to 0.0080) end_to_end is better." in said
    assert "The two are equivalent in the segment light." in said
    assert "not enough evidence in the segment regular (+0.0010; about 6 more seeds would settle it)." in said


def test_several_compositions_are_summed_up_first_and_then_told_one_by_one():
    said = verdict_paragraph(
        [
            comparison(difference(Verdict.BETTER, 0.001, 0.007)),
            comparison(difference(Verdict.WORSE, -0.007, -0.001), composition="parallel"),
        ],
        "auc",
        RULES,
        {},
    )
    assert said.startswith(
        "With composition conditional freeze the tower; with composition parallel fine-tune the tower. "
        "With composition conditional, frozen_tower is better"
    )


def test_values_without_a_verb_of_their_own_are_chosen():
    by_model = comparison(difference(Verdict.BETTER, 0.001, 0.007))
    by_model = type(by_model)(
        type(by_model.contrast)("model", "cross", "mask", "cross", "mask", {}), by_model.differences
    )
    assert verdict_paragraph([by_model], "auc", RULES, {}).startswith(
        "Choose cross. Overall, cross is better than mask"
    )


def test_an_undefined_metric_says_so():
    assert "AUC is undefined on these test rows" in _said()


def _ladder(*pairs: tuple[str, str, tuple]) -> list[Comparison]:
    """Comparisons of every two of three modes; their means are those of `difference`."""
    return [Comparison(Contrast("training_mode", a, b, a, b, {}), found) for a, b, found in pairs]


def _of(verdict: Verdict, first: float, second: float, **changed) -> Difference:
    middle = first - second
    return replace(difference(verdict, middle - 0.002, middle + 0.002, **changed), first_mean=first, second_mean=second)


def _said_of_three(costs=None) -> str:
    found = _ladder(
        ("frozen_tower", "frozen_adapter", (_of(Verdict.OPEN, 0.784, 0.783, seeds_to_settle=7),)),
        (
            "end_to_end",
            "frozen_tower",
            (_of(Verdict.WORSE, 0.777, 0.784), _of(Verdict.WORSE, 0.75, 0.764, segment="young")),
        ),
        ("frozen_adapter", "end_to_end", (_of(Verdict.BETTER, 0.783, 0.777),)),
    )
    return verdict_paragraph(found, "auc", RULES, costs or {})


def test_of_three_or_more_values_the_best_is_told_beside_each_other_one_and_no_pair_besides():
    assert _said_of_three() == (
        "Not enough evidence to choose between frozen_tower and frozen_adapter. Overall, frozen_tower has the best "
        "mean of 3, 0.7840 AUC (3 seeds, 5,412 users). It is better than end_to_end (by 0.0070, 95 % interval 0.0050 "
        "to 0.0090). There is not enough evidence that it is better than frozen_adapter (by 0.0010, 95 % interval "
        "-0.0010 to 0.0030; about 4 more seeds would settle it). In the segment young (by 0.0140, 95 % interval "
        "0.0120 to 0.0160) it is better than end_to_end."
    )


def test_of_several_values_one_that_costs_less_and_is_equivalent_to_the_best_is_advised():
    found = _ladder(
        ("frozen_tower", "end_to_end", (_of(Verdict.EQUIVALENT, 0.7835, 0.784),)),
        ("frozen_tower", "tower_tables", (_of(Verdict.BETTER, 0.7835, 0.77),)),
        ("end_to_end", "tower_tables", (_of(Verdict.BETTER, 0.784, 0.77),)),
    )
    costs = {"frozen_tower": {"cpu_seconds": 5.0}, "end_to_end": {"cpu_seconds": 9.0}}
    said = verdict_paragraph(found, "auc", RULES, costs)
    assert said.startswith(
        "Freeze the tower, which costs less than end_to_end and loses nothing. Overall, end_to_end has"
    )
    assert "It is equivalent to frozen_tower (by 0.0005, 95 % interval -0.0015 to 0.0025)." in said
    assert verdict_paragraph(found, "auc", RULES, {}).startswith(
        "Fine-tune the tower. Overall, end_to_end has the best"
    )
