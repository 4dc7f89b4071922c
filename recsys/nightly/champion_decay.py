"""Does the champion get worse the further the days are from those that it learnt from, and how fast?"""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Two points lie on a line whatever their noise.
_FEWEST_DAYS = 3


@dataclass(frozen=True)
class ChampionDecay:
    """The champion's AUC on days that it has not seen.

    Attributes:
        champion_date: the first of those days.
        auc_by_day: UTC day -> its AUC on the day's rows; days where it is undefined are absent.
        slope: change of the AUC per day, by least squares; None where there are fewer than three days.
        error: its standard error, from how far the days lie off the line.
    """

    champion_date: datetime.date
    auc_by_day: Mapping[str, float]
    slope: float | None
    error: float | None

    @property
    def sentence(self) -> str:
        """What is to be told; empty where there is no slope yet."""
        if self.slope is None or self.error is None:
            return ""
        verb = "loses" if self.slope < 0 else "gains"
        noise = ", which is within its noise" if abs(self.slope) <= 2 * self.error else ""
        return (
            f"The champion of {self.champion_date} {verb} {abs(self.slope):.4f} AUC a day on new data, "
            f"+-{self.error:.4f}, over {len(self.auc_by_day)} days{noise}."
        )

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `decay_from` reads back."""
        return {
            "champion_date": str(self.champion_date),
            "auc_by_day": dict(self.auc_by_day),
            "slope": self.slope,
            "error": self.error,
            "sentence": self.sentence,
        }


def decay_of(champion_date: datetime.date, auc_by_day: Mapping[str, float]) -> ChampionDecay:
    """Fit a line to the champion's AUC by day.

    >>> found = decay_of(datetime.date(2011, 9, 3), {"2011-09-03": 0.8, "2011-09-04": 0.7, "2011-09-06": 0.5})
    >>> round(found.slope, 6), round(found.error, 6)
    (-0.1, 0.0)
    """
    ordered = dict(sorted(auc_by_day.items()))
    if len(ordered) < _FEWEST_DAYS:
        return ChampionDecay(champion_date, ordered, None, None)
    # Days without rows are gaps in time, not left out of it.
    day = np.array([datetime.date.fromisoformat(each).toordinal() for each in ordered], np.float64)
    auc = np.array(list(ordered.values()))
    from_mean = day - day.mean()
    spread = float(from_mean @ from_mean)
    slope = float(from_mean @ auc) / spread
    off_the_line = auc - auc.mean() - slope * from_mean
    error = math.sqrt(float(off_the_line @ off_the_line) / (len(ordered) - 2) / spread)
    return ChampionDecay(champion_date, ordered, slope, error)


def decay_from(document: Mapping[str, Any]) -> ChampionDecay:
    """The inverse of `ChampionDecay.to_document`."""
    return ChampionDecay(
        datetime.date.fromisoformat(document["champion_date"]),
        document["auc_by_day"],
        document["slope"],
        document["error"],
    )
