"""When a challenger takes the champion's place."""

import math
from dataclasses import replace

import pytest

from recsys.scheduling.promotion import UNMEASURED, AucDifference, PromotionEvidence, PromotionLimits, decide

BETTER = AucDifference(0.004, 0.001, 0.007)
LIMITS = PromotionLimits(margin=0.002, segment_margin=0.005, max_calibration_error=0.1)
EVIDENCE = PromotionEvidence(
    has_champion=True,
    overall=BETTER,
    by_segment={},
    calibration_error=0.02,
    drift_fault="",
    golden_fault="",
)


def test_challenger_better_by_more_than_its_noise_is_promoted() -> None:
    decision = decide(replace(EVIDENCE, by_segment={"new": AucDifference(0.002, -0.01, 0.014)}), LIMITS)

    assert decision.promote
    assert decision.reasons == (
        "Over all rows the challenger is better by more than its noise: +0.0040 [+0.0010, +0.0070].",
        "The challenger's calibration error is 0.0200, at most 0.1.",
        "The served model scores the golden rows in a fresh process as the ranker did.",
    )


@pytest.mark.parametrize(("low", "high"), [(-0.0019, 0.0019), (-0.0019, -0.0001), (0.0, 0.001)])
def test_challenger_whose_interval_lies_within_the_margin_is_equivalent_and_promoted(low: float, high: float) -> None:
    decision = decide(replace(EVIDENCE, overall=AucDifference((low + high) / 2, low, high)), LIMITS)

    assert decision.promote
    assert decision.reasons[0].startswith("Over all rows the challenger is equivalent, within 0.002 either way: ")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.002, 0.001, "neither better nor equivalent (within 0.002)"),
        (0.0, 0.002, "neither better nor equivalent (within 0.002)"),
        (-0.001, 0.009, "neither better nor equivalent (within 0.002)"),
        (-0.009, -0.001, "worse by more than its noise"),
    ],
)
def test_challenger_that_is_neither_better_nor_equivalent_is_refused(low: float, high: float, said: str) -> None:
    decision = decide(replace(EVIDENCE, overall=AucDifference((low + high) / 2, low, high)), LIMITS)

    assert not decision.promote
    assert said in decision.reasons[0]


def test_one_segment_clearly_worse_by_more_than_the_margin_stands_in_the_way() -> None:
    worse = {"new": AucDifference(-0.02, -0.03, -0.01), "heavy": BETTER}
    decision = decide(replace(EVIDENCE, by_segment=worse), LIMITS)

    assert not decision.promote
    assert decision.reasons[1] == "Segment `new` is worse by more than the margin 0.005: -0.0200 [-0.0300, -0.0100]."


def test_segment_worse_by_less_than_the_margin_does_not() -> None:
    assert decide(replace(EVIDENCE, by_segment={"new": AucDifference(-0.004, -0.005, -0.003)}), LIMITS).promote


def test_segment_that_reads_worse_within_its_noise_is_said_and_does_not_decide() -> None:
    decision = decide(replace(EVIDENCE, by_segment={"new": AucDifference(-0.02, -0.06, 0.02)}), LIMITS)

    assert decision.promote
    assert "Segment `new` reads worse, but within its noise" in decision.reasons[1]


def test_what_is_not_measured_never_promotes_over_all_and_is_said_per_segment() -> None:
    over_all = decide(replace(EVIDENCE, overall=UNMEASURED), LIMITS)
    in_a_segment = decide(replace(EVIDENCE, by_segment={"new": UNMEASURED}), LIMITS)

    assert not over_all.promote
    assert "could not be measured, so the champion stays" in over_all.reasons[0]
    assert in_a_segment.promote
    assert in_a_segment.reasons[1] == "Segment `new` could not be measured and did not decide."


@pytest.mark.parametrize(
    ("error", "is_promoted", "said"),
    [
        (0.1, True, "is 0.1000, at most 0.1."),
        (0.1001, False, "is 0.1001, above 0.1."),
        (None, False, "could not be measured"),
    ],
)
def test_calibration_is_asked_of_every_challenger_the_first_included(error, is_promoted: bool, said: str) -> None:
    for has_champion in (True, False):
        decision = decide(replace(EVIDENCE, has_champion=has_champion, calibration_error=error), LIMITS)
        assert decision.promote is is_promoted
        assert any("calibration error" in reason and said in reason for reason in decision.reasons)


def test_first_challenger_needs_no_difference_but_a_model_that_serves() -> None:
    first = replace(EVIDENCE, has_champion=False, overall=UNMEASURED)

    assert decide(first, LIMITS).promote
    assert decide(first, LIMITS).reasons[0] == "There was no champion yet."
    broken = decide(replace(first, golden_fault="3 of 100 rows differ."), LIMITS)
    assert not broken.promote
    assert broken.reasons[-1].endswith("golden rows in a fresh process: 3 of 100 rows differ.")


def test_undefined_metric_is_not_measured() -> None:
    assert not AucDifference(0.1, math.nan, 0.2).is_measured


def test_a_tower_beyond_its_limit_of_drift_stands_in_the_way_however_good_the_challenger_is() -> None:
    decision = decide(replace(EVIDENCE, drift_fault="cosine_distance is 0.31, above 0.1."), LIMITS)

    assert not decision.promote
    assert "Other models would have to share a tower that moved too far: cosine_distance is 0.31, above 0.1." in (
        decision.reasons
    )
