"""The smallest change that is equivalent to the best one, and what is said where the evidence is not enough."""

import numpy as np
import pytest

from recsys.ablation.arms import Contrast
from recsys.ablation.bootstrap import MeasuredArm
from recsys.ablation.comparison import Comparison, Rules, compare
from recsys.ablation.least_change import Grounds, by_size, least_changes, least_changes_table
from recsys.metrics.metric import Support

RULES = Rules(level=0.05, margins={"auc": 0.002})
LADDER = ("frozen", "adapter", "all")
COSTS = {name: {"trained_parameters": float(size)} for name, size in zip(LADDER, (10, 20, 99), strict=True)}


def _arm(condition: str, seed: int, aucs: dict[str, float], noise: float) -> MeasuredArm:
    rng = np.random.default_rng([LADDER.index(condition), seed])
    values = {
        ("auc", segment): auc + noise * rng.normal() + 1e-6 * rng.normal(size=400) for segment, auc in aucs.items()
    }
    support = dict.fromkeys(values, Support(rows=1000, users=500, effective_users=400.0))
    return MeasuredArm(condition, seed, values, support, {"label": "same"})


def compared(aucs: dict[str, dict[str, float]], noise: float = 0.0001, order=LADDER) -> list[Comparison]:
    """Every pair's comparison over five seeds; condition -> segment -> AUC."""
    arms = [_arm(name, seed, of, noise) for name, of in aucs.items() for seed in range(5)]
    pairs = [(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]
    return [compare(Contrast("training_mode", a, b, a, b, {}), arms, RULES) for a, b in pairs]


def chosen(aucs: dict[str, float], **keywords) -> tuple[str, Grounds]:
    (found,) = least_changes(compared({name: {"all": auc} for name, auc in aucs.items()}, **keywords), "auc", LADDER)
    return found.choice, found.grounds


@pytest.mark.parametrize(
    ("aucs", "expected"),
    [
        ({"frozen": 0.7, "adapter": 0.7004, "all": 0.7008}, ("frozen", Grounds.EQUIVALENT)),
        ({"frozen": 0.69, "adapter": 0.7004, "all": 0.7008}, ("adapter", Grounds.EQUIVALENT)),
        ({"frozen": 0.69, "adapter": 0.70, "all": 0.71}, ("all", Grounds.ONLY_BEST)),
        ({"frozen": 0.71, "adapter": 0.70, "all": 0.69}, ("frozen", Grounds.SMALLEST)),
    ],
    ids=["all are equal", "the middle does", "only all does", "the smallest is best"],
)
def test_the_smallest_change_that_is_equivalent_to_the_best(aucs, expected) -> None:
    assert chosen(aucs) == expected


def test_without_enough_evidence_it_says_so() -> None:
    assert chosen({"frozen": 0.7, "adapter": 0.70, "all": 0.701}, noise=0.02)[1] is Grounds.OPEN


def test_the_order_in_which_pairs_were_compared_does_not_matter() -> None:
    aucs = {name: {"all": auc} for name, auc in {"frozen": 0.69, "adapter": 0.7004, "all": 0.7008}.items()}
    there, back = (least_changes(compared(aucs, order=order), "auc", LADDER) for order in (LADDER, LADDER[::-1]))

    assert (there[0].choice, there[0].grounds) == (back[0].choice, back[0].grounds)
    assert there[0].difference == pytest.approx(back[0].difference)
    assert (there[0].low, there[0].high) == pytest.approx((back[0].low, back[0].high))
    assert there[0].difference < 0  # the choice minus the best


def test_segments_choose_for_themselves_and_the_table_shows_each() -> None:
    aucs = {
        "frozen": {"all": 0.7, "new": 0.72, "heavy": 0.60},
        "adapter": {"all": 0.7, "new": 0.70, "heavy": 0.60},
        "all": {"all": 0.7, "new": 0.70, "heavy": 0.65},
    }
    comparisons = compared(aucs)

    assert by_size(comparisons[::-1], COSTS) == list(LADDER)
    found = {each.segment: each.choice for each in least_changes(comparisons, "auc", by_size(comparisons, COSTS))}
    assert (found["new"], found["heavy"]) == ("frozen", "all")
    table = least_changes_table(comparisons, "auc", COSTS)
    assert [row[1:4] for row in table.rows if row[1] == "heavy"] == [("heavy", "all", str(Grounds.ONLY_BEST))]


def _replicate(number: int) -> dict[str, list[MeasuredArm]]:
    """Arms that are equal in truth, as validation and test rows show them: other users on each, the same seeds."""
    rng = np.random.default_rng(number)
    seed_luck = {(name, seed): 0.001 * rng.normal() for name in LADDER for seed in range(5)}
    found = {}
    for split in ("validation", "test"):
        of_users = {(name, segment): 0.004 * rng.normal() for name in LADDER for segment in ("all", "new", "heavy")}
        found[split] = [
            _measured(name, seed, {s: 0.7 + luck + of_users[name, s] for s in ("all", "new", "heavy")}, 0.004, rng)
            for (name, seed), luck in seed_luck.items()
        ]
    return found


def _measured(name: str, seed: int, aucs: dict[str, float], spread: float, rng: np.random.Generator) -> MeasuredArm:
    values = {
        ("auc", segment): np.concatenate([[auc], auc + spread * rng.normal(size=60)]) for segment, auc in aucs.items()
    }
    support = dict.fromkeys(values, Support(rows=1000, users=500, effective_users=400.0))
    return MeasuredArm(name, seed, values, support, {"label": "same"})


def test_among_equal_arms_the_reported_gain_of_a_choice_is_zero_on_average() -> None:
    """The luckiest on the rows that it was chosen by is better on those rows alone: the winner's curse."""
    pairs = [Contrast("training_mode", a, b, a, b, {}) for a, b in (LADDER[:2], LADDER[1:], LADDER[::2])]
    reported, by_luck = [], []
    for number in range(60):
        rows = _replicate(number)
        choices = least_changes([compare(pair, rows["validation"], RULES) for pair in pairs], "auc", LADDER)
        means = {
            split: {
                (name, segment): np.mean([arm.values["auc", segment][0] for arm in arms if arm.condition == name])
                for name in LADDER
                for segment in ("new", "heavy")
            }
            for split, arms in rows.items()
        }
        for each in choices[1:]:
            uniform = np.mean([means["test"][name, each.segment] for name in LADDER])
            reported.append(means["test"][each.choice, each.segment] - uniform)
            own = [means["validation"][name, each.segment] for name in LADDER]
            by_luck.append(means["validation"][each.best, each.segment] - np.mean(own))

    error = np.std(reported) / np.sqrt(len(reported))
    assert abs(np.mean(reported)) < 3 * error
    assert np.mean(by_luck) > 5 * error
