"""Comparisons whose differences are written down instead of computed, to see what is said about them."""

from recsys.ablation.arms import Contrast
from recsys.ablation.comparison import Comparison, Difference, Rules, Verdict
from recsys.all_segments import ALL

RULES = Rules(level=0.05, margins={"auc": 0.002})


def difference(verdict: Verdict, low: float, high: float, segment: str = ALL, **changed) -> Difference:
    """A difference in the middle of its interval; three seeds and 5,412 users unless `changed`."""
    values = {
        "metric": "auc",
        "rows": 20_000,
        "users": 5_412,
        "seeds": 3,
        "first_mean": 0.7 + (low + high) / 2,
        "second_mean": 0.7,
        "difference": (low + high) / 2,
        "seed_deviation": 0.001,
        "user_deviation": 0.001,
        "p_value": 0.04,
        "seeds_to_settle": None,
    }
    return Difference(verdict=verdict, low=low, high=high, segment=segment, **(values | changed))


def comparison(*differences: Difference, composition: str = "conditional") -> Comparison:
    """Frozen tower against end-to-end in one composition."""
    names = (f"frozen/{composition}", f"end_to_end/{composition}")
    return Comparison(
        Contrast("training_mode", *names, "frozen_tower", "end_to_end", {"composition": composition}), differences
    )
