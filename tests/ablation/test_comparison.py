"""What a comparison promises: pairs by seed on equal rows, corrected verdicts, and a known rate of false ones."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from recsys.ablation import bootstrap
from recsys.ablation.bootstrap import MeasuredArm
from recsys.ablation.comparison import Rules, Verdict, compare, compare_fixed
from recsys.all_segments import ALL
from recsys.errors import DataError, UsageError
from recsys.metrics.auc import AUC
from recsys.metrics.log_loss import LOG_LOSS
from recsys.metrics.metric import Support
from recsys.metrics.predictions import predictions_of
from tests.ablation.simulated_studies import QUESTION, World, measured, simulate, study

RULES = Rules(level=0.05, margins={"auc": 0.002})


def _measured(condition: str, seed: int, **by_segment: tuple[float, float]) -> MeasuredArm:
    """An arm with an AUC and a spread over users in each segment, who move all seeds of a condition alike."""
    rng = np.random.default_rng(int(condition == QUESTION.first))
    values = {
        ("auc", segment): np.concatenate([[auc], auc + spread * rng.normal(size=400)])
        for segment, (auc, spread) in by_segment.items()
    }
    support = dict.fromkeys(values, Support(rows=1000, users=500, effective_users=400.0))
    return MeasuredArm(condition, seed, values, support, {"label": "same"})


def _compared(first: list[float], second: list[float], user_spread: float = 1e-6, rules: Rules = RULES):
    arms = [_measured("frozen", seed, all=(auc, user_spread)) for seed, auc in enumerate(first)]
    arms += [_measured("end_to_end", seed, all=(auc, user_spread)) for seed, auc in enumerate(second)]
    return compare(QUESTION, arms, rules).find("auc")


def test_the_difference_is_taken_within_seeds_so_luck_that_both_arms_share_drops_out():
    # The seeds' AUCs range over 0.2, but within each seed the first is better by 0.010 +- 0.001.
    found = _compared([0.711, 0.609, 0.810], [0.7, 0.6, 0.8])
    assert found.difference == pytest.approx(0.010)
    assert found.seed_deviation == pytest.approx(0.001)
    assert found.verdict is Verdict.BETTER
    assert (found.first_mean, found.second_mean) == (pytest.approx(0.71), pytest.approx(0.70))


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        ([0.710, 0.711, 0.709], Verdict.BETTER),
        ([0.690, 0.691, 0.689], Verdict.WORSE),
        ([0.7001, 0.7002, 0.7000], Verdict.EQUIVALENT),
        ([0.710, 0.690, 0.705], Verdict.OPEN),
    ],
)
def test_the_four_verdicts(first, verdict):
    assert _compared(first, [0.7, 0.7, 0.7]).verdict is verdict


def test_a_difference_that_is_certain_but_within_the_margin_is_no_win():
    found = _compared([0.7010, 0.7011, 0.7010], [0.7, 0.7, 0.7])
    assert found.p_value < 0.05
    assert found.verdict is Verdict.EQUIVALENT


def test_a_metric_without_a_margin_is_never_equivalent():
    assert _compared([0.7, 0.7001, 0.7], [0.7, 0.7, 0.7], rules=Rules(0.05, {})).verdict is Verdict.OPEN


def test_of_log_loss_the_lower_one_is_better():
    arms = [
        _measured(c, s, all=(v + s * 1e-4, 1e-6)) for c, v in (("frozen", 0.5), ("end_to_end", 0.6)) for s in range(3)
    ]
    arms = [
        replace(
            arm,
            values={("log_loss", ALL): arm.values["auc", ALL]},
            support={("log_loss", ALL): arm.support["auc", ALL]},
        )
        for arm in arms
    ]
    found = compare(QUESTION, arms, RULES).find("log_loss")
    assert found.difference == pytest.approx(-0.1)
    assert found.verdict is Verdict.BETTER


def test_one_seed_gives_the_difference_but_no_verdict():
    found = _compared([0.8], [0.7])
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high, found.p_value, found.verdict) == (None, None, None, Verdict.OPEN)


def test_chance_among_users_alone_can_leave_a_difference_open():
    agreeing = [0.710, 0.711, 0.709]
    assert _compared(agreeing, [0.7] * 3, user_spread=0.03).verdict is Verdict.OPEN
    assert _compared(agreeing, [0.7] * 3, user_spread=0.03).seeds_to_settle is None


def test_an_open_verdict_says_how_many_seeds_would_settle_it():
    found = _compared([0.710, 0.700, 0.706], [0.7, 0.7, 0.7])
    assert found.verdict is Verdict.OPEN
    # sd 0.0050 and difference 0.0053: were both the truth, 6 seeds would do half the time. They are three seeds' guess.
    assert 6 < found.seeds_to_settle < 60


def _by_t(rules: Rules = RULES, **t_of_segment: float):
    """Three seeds whose differences have these t values, on 2 degrees of freedom, and users who add no chance."""
    offsets = {name: 0.05 * np.sqrt(3) / t for name, t in t_of_segment.items()}
    arms = [
        _measured("frozen", s, **{name: (0.75 + (s - 1) * offset, 0.0) for name, offset in offsets.items()})
        for s in range(3)
    ]
    arms += [_measured("end_to_end", s, **dict.fromkeys(offsets, (0.7, 0.0))) for s in range(3)]
    return compare(QUESTION, arms, rules)


def test_the_whole_is_judged_at_the_level_and_segments_together_corrected_for_their_number():
    # t = 5 on 2 degrees of freedom: 0.0377, below 0.05 alone, not as one of three.
    found = _by_t(all=5, cold=5, light=5, heavy=5)
    assert found.find("auc").p_value == pytest.approx(0.0377, abs=1e-3)
    assert found.find("auc").verdict is Verdict.BETTER
    assert [d.p_value for d in found.of_segments("auc")] == pytest.approx([3 * 0.0377] * 3, abs=3e-3)
    assert {d.verdict for d in found.of_segments("auc")} == {Verdict.OPEN}


def test_a_segment_is_judged_alike_whether_the_whole_is_decided_or_not():
    for whole, verdict in ((8, Verdict.BETTER), (1, Verdict.OPEN)):
        found = _by_t(all=whole, cold=9, light=1, heavy=1)
        assert found.find("auc").verdict is verdict
        # t = 9: 0.0121 alone.
        assert found.find("auc", "cold").p_value == pytest.approx(3 * 0.0121, abs=1e-3)
        assert found.find("auc", "cold").verdict is Verdict.BETTER


def test_segments_that_are_chosen_for_one_by_one_have_the_level_each():
    apart = replace(RULES, segments_together=False)
    found = _by_t(rules=apart, all=1, cold=5, light=5, heavy=1)
    assert [d.p_value for d in found.of_segments("auc")][:2] == pytest.approx([0.0377] * 2, abs=1e-3)
    assert [d.verdict for d in found.of_segments("auc")] == [Verdict.BETTER, Verdict.BETTER, Verdict.OPEN]


def test_the_whole_is_better_or_worse_just_where_its_interval_leaves_out_zero():
    for t in (4.2, 4.4):  # of 4.30, Student's quantile on 2 degrees of freedom
        overall = _by_t(all=t, cold=1).find("auc")
        assert (overall.verdict is Verdict.BETTER) == (overall.low > 0) == (t > 4.3)


def test_a_segment_in_which_the_metric_is_undefined_has_no_difference():
    arms = [_measured(c, s, all=(0.7, 0.01), cold=(np.nan, 0.0)) for c in ("frozen", "end_to_end") for s in range(2)]
    found = compare(QUESTION, arms, RULES)
    assert found.find("auc", "cold") is None
    assert found.find("auc") is not None


def test_two_models_at_hand_are_compared_on_other_users_alone():
    first = _measured("frozen", 0, all=(0.72, 0.002), cold=(0.72, 0.03), heavy=(np.nan, 0.0))
    second = _measured("end_to_end", 0, all=(0.70, 0.002), cold=(0.70, 0.03), heavy=(np.nan, 0.0))
    found = compare_fixed(first, second, "auc", level=0.05)
    assert found.keys() == {"all", "cold"}
    assert found["all"].value == pytest.approx(0.02)
    # Two independent spreads of 0.002 make one of 0.0028, and 1.97 of these to either side.
    assert found["all"].low == pytest.approx(0.02 - 1.97 * 0.00283, abs=4e-4)
    assert found["cold"].low < 0 < found["cold"].high


def test_two_models_at_hand_must_have_been_measured_on_the_same_rows():
    first, second = _measured("frozen", 0, all=(0.7, 0.1)), _measured("end_to_end", 0, all=(0.7, 0.1))
    with pytest.raises(DataError, match="differ in label"):
        compare_fixed(first, replace(second, fingerprints={"label": "other"}), "auc", level=0.05)


def test_arms_that_were_evaluated_on_other_rows_are_refused_with_what_differs():
    arms = simulate(World(users=20), seed=0)
    arms["end_to_end", 0] = replace(arms["end_to_end", 0], label=1 - arms["end_to_end", 0].label)
    with pytest.raises(
        DataError, match=r"frozen/s0 and end_to_end/s0 were not evaluated on the same rows.*differ in label"
    ):
        compare(QUESTION, measured(arms, 3, 0), RULES)


def test_rows_in_another_order_are_other_rows():
    arms = simulate(World(users=20), seed=0)
    columns = arms["frozen", 1].columns()
    arms["frozen", 1] = predictions_of({name: column[::-1] for name, column in columns.items()})
    with pytest.raises(DataError, match="same rows in the same order"):
        compare(QUESTION, measured(arms, 3, 0), RULES)


def test_a_comparison_becomes_json_with_its_verdicts_as_words():
    found = study(World(users=30), seed=0, samples=10)
    document = json.loads(json.dumps(found.to_document()))
    assert document["contrast"]["first"] == "frozen"
    assert document["differences"][0]["verdict"] in set(Verdict)


def test_a_missing_partner_is_refused_by_name():
    arms = [_measured("frozen", 0, all=(0.7, 0.1)), _measured("frozen", 1, all=(0.7, 0.1))]
    arms += [_measured("end_to_end", 0, all=(0.7, 0.1))]
    with pytest.raises(UsageError, match="end_to_end/s1 has no result, but frozen/s1 has"):
        compare(QUESTION, arms, RULES)
    with pytest.raises(UsageError, match="Neither frozen nor end_to_end"):
        compare(QUESTION, [], RULES)


@pytest.fixture
def two_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms are measured by two metrics of four: the verdicts of one depend on no other, and the studies are many."""
    monkeypatch.setattr(bootstrap, "row_metrics", lambda: [AUC, LOG_LOSS])


def _verdicts(world: World, studies: int, samples: int) -> tuple[Counter, Counter]:
    overall, segments = Counter(), Counter()
    for seed in range(studies):
        found = study(world, seed, samples)
        overall[found.find("auc").verdict] += 1
        segments.update({d.verdict for d in found.of_segments("auc")})
    return overall, segments


@pytest.mark.usefixtures("two_metrics")
def test_arms_that_differ_in_luck_alone_get_at_most_five_false_verdicts_in_a_hundred():
    """Three seeds, users shared by all arms. Overall and, counted as one, over the segments.

    On 1,000 studies 3.4 % were false overall and 3.1 % in any segment. In `World(users=300, luck=0.4)`, where seeds are
    nearly all the chance there is and the interval is Student's own, it is 5.8 % and 4.5 %.
    """
    overall, segments = _verdicts(World(), studies=100, samples=40)
    assert overall[Verdict.BETTER] + overall[Verdict.WORSE] <= 8
    assert segments[Verdict.BETTER] + segments[Verdict.WORSE] <= 8


@pytest.mark.usefixtures("two_metrics")
@pytest.mark.parametrize("users", [8, 24])
def test_a_handful_of_users_who_prefer_one_condition_or_the_other_make_no_false_verdicts_either(users):
    """Seeds agree here, and each user is served better by one of the conditions: only other users would tell.

    On 1,000 studies each with 6, 10 and 25 users of very unequal numbers of rows, the AUC was falsely told apart in
    2.7, 3.5 and 5.1 %, the log loss in 1.9, 1.5 and 3.3 %.
    """
    world = World(users=users, seeds=5, luck=0.01, user_error=0.0, user_taste=0.8)
    overall, _ = _verdicts(world, studies=50, samples=60)
    assert overall[Verdict.BETTER] + overall[Verdict.WORSE] <= 6  # 2.5 are expected at 5 %, more than 6 in 1 of 80 runs


@pytest.mark.usefixtures("two_metrics")
def test_a_planted_difference_is_found_and_never_the_opposite():
    overall, _ = _verdicts(
        World(users=150, luck=0.05, user_error=0.1, handicap=(1.5, 1.5, 1.5)), studies=40, samples=40
    )
    assert overall[Verdict.BETTER] >= 36
    assert overall[Verdict.WORSE] == 0


@pytest.mark.usefixtures("two_metrics")
def test_a_difference_that_is_planted_in_one_segment_is_found_there():
    world = World(users=400, luck=0.02, user_error=0.1, handicap=(2.0, 0.0, 0.0))
    found = [study(world, seed, samples=40) for seed in range(20)]
    assert sum(f.find("auc", "cold").verdict is Verdict.BETTER for f in found) >= 18
    assert sum(f.find("auc", name).verdict is Verdict.BETTER for f in found for name in ("light", "heavy")) <= 2


@pytest.mark.usefixtures("two_metrics")
def test_bootstrapping_seeds_as_well_would_raise_false_verdicts_far_above_five_in_a_hundred():
    """The naive hierarchical bootstrap on the same null studies: why seeds get Student's t instead."""
    world, naive_false, ours_false = World(users=300, luck=0.4), 0, 0
    for seed in range(50):
        arms = measured(simulate(world, seed), 30, seed)
        ours_false += compare(QUESTION, arms, RULES).find("auc").verdict in (Verdict.BETTER, Verdict.WORSE)
        pairs = np.stack([arms[s].values["auc", ALL] - arms[s + 3].values["auc", ALL] for s in range(3)])
        rng = np.random.default_rng(seed)
        drawn = np.stack([pairs[rng.integers(3, size=3), 1 + r % 30].mean() for r in range(600)])
        low, high = np.quantile(drawn, [0.025, 0.975])
        naive_false += not low <= 0 <= high
    assert naive_false >= 8  # 15 % at least
    assert ours_false <= 5
