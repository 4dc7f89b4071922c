"""Graded labels: a number behind the label, such as a rating, and the thresholds at which it is asked."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from recsys.features.declaration import Declaration, Expected, Listed, Name, such_that

GRADE = "label_grade"
"""The encoded column of grades."""

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _is_rising(values: tuple[float, ...]) -> bool:
    return len(values) > 1 and all(one < next_one for one, next_one in pairwise(values))


@dataclass(frozen=True)
class Graded(Declaration):
    """That the label says whether a grade is above one of several thresholds.

    Attributes:
        column: of the files, with a number in every row.
        thresholds: rising; each asks whether the grade is above it.
        answer: the one of them whose answer is the label.
        weights: by how much each threshold's log loss counts; none: each once.
    """

    column: Name
    thresholds: Annotated[
        Listed[_Number], such_that(_is_rising), Expected("two or more rising numbers, such as [1, 2, 3, 4]")
    ]
    answer: Annotated[_Number, Expected("the one of `thresholds` that the label asks about")]
    weights: Annotated[
        Listed[Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]],
        Expected("a number above 0 for each of `thresholds`, or no such key"),
    ] = ()

    def __post_init__(self) -> None:
        """Refuse an answer that is no threshold, and weights that are not one for each."""
        if self.answer not in self.thresholds:
            found = ", ".join(f"{each:g}" for each in self.thresholds)
            raise ValueError(f"`answer` is {self.answer:g}; expected one of `thresholds`, which are {found}.")
        if self.weights and len(self.weights) != len(self.thresholds):
            raise ValueError(
                f"`weights` has {len(self.weights)} numbers for {len(self.thresholds)} `thresholds`; expected one each."
            )

    @property
    def place(self) -> int:
        """Which of the thresholds, counted from 0, is the answer."""
        return self.thresholds.index(self.answer)

    @property
    def loss_weights(self) -> tuple[float, ...]:
        """By how much each threshold's log loss counts."""
        return self.weights or (1.0,) * len(self.thresholds)

    @property
    def names(self) -> tuple[str, ...]:
        """What the ranker's outputs are called, one a threshold."""
        return tuple(f"above_{each:g}" for each in self.thresholds)
