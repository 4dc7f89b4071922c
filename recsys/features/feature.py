"""One column of a row: what it may hold, and which part of the model reads it."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import Field

from recsys.features.declaration import Declaration, Expected, Listed, Name, shown

Part = Literal["user_tower", "item_tower", "interaction_network"]
PARTS: tuple[Part, ...] = get_args(Part)
USER_TOWER, ITEM_TOWER, INTERACTION_NETWORK = PARTS


class FeatureKind(StrEnum):
    """How a column becomes a field of the model."""

    DENSE = "dense"
    SPARSE = "sparse"
    SPARSE_LIST = "sparse_list"
    DENSE_LIST = "dense_list"


class Holds(StrEnum):
    """What the numbers of a dense list are: how an event went, or how many days before the row it was."""

    VALUE = "value"
    AGE_DAYS = "age_days"


class Scale(StrEnum):
    """How a dense value is brought to unit spread; `log` takes sign(x) log(1 + |x|) first."""

    STANDARD = "standard"
    LOG = "log"
    NONE = "none"


_Bound = Annotated[float, Field(strict=True, allow_inf_nan=False), Expected("a finite number, or no such key")]
_OF_LISTS = "a whole number from 1 for a list, and no such key for other kinds"
_NUMBERS = (FeatureKind.DENSE, FeatureKind.DENSE_LIST)
LIST_KINDS = (FeatureKind.SPARSE_LIST, FeatureKind.DENSE_LIST)


@dataclass(frozen=True)
class Feature(Declaration):
    """One column.

    Attributes:
        used_by: the parts that read it, of `PARTS`.
        table: sparse kinds: the embedding table and vocabulary; two features may share one. Empty for dense kinds.
        max_length: lists: a longer list keeps its last `max_length` values. 0 for other kinds.
        minimum, maximum: dense kinds: the allowed raw range; a value outside it stops the preparation.
        fill: dense kinds: what stands in for null and NaN; None stops the preparation.
        scale: dense kinds: one of `Scale`; of a dense list never `standard`.
        beside: lists: the sparse list that it agrees with element by element: in every row they are equally long.
        holds: dense lists: one of `Holds`.
    """

    name: Name
    kind: Annotated[FeatureKind, Expected("one of", FeatureKind)]
    used_by: Annotated[Listed[Part], Field(min_length=1), Expected("a list of some of", PARTS)]
    table: Annotated[str, Field(strict=True), Expected("the name of an embedding table")] = ""
    max_length: Annotated[int, Field(strict=True, ge=0), Expected(_OF_LISTS)] = 0
    minimum: _Bound = -math.inf
    maximum: _Bound = math.inf
    fill: _Bound | None = None
    scale: Annotated[Scale, Expected("one of", Scale)] = Scale.STANDARD
    beside: Annotated[str, Field(strict=True), Expected("the name of a sparse_list")] = ""
    holds: Annotated[Holds, Expected("one of", Holds)] = Holds.VALUE

    @property
    def is_list(self) -> bool:
        """Whether a row has several values of it, or none."""
        return self.kind in LIST_KINDS

    @property
    def is_sparse(self) -> bool:
        """Whether its values are ids, which an embedding table has vectors for."""
        return self.kind not in _NUMBERS

    def __post_init__(self) -> None:
        """Refuse what another kind of feature has, and a range that no value could be in."""
        if self.kind is FeatureKind.DENSE_LIST:
            self._require_beside()
        # The length of a list beside another one is that one's, which is for the schema to say.
        if (self.max_length > 0) != self.is_list and not (self.is_list and self.beside):
            raise ValueError(f"`max_length` is {self.max_length}; expected {_OF_LISTS}.")
        if self.beside and not self.is_list:
            raise ValueError(f"`beside` belongs to lists, and this one is {self.kind}.")
        if self.holds is not Holds.VALUE and self.kind is not FeatureKind.DENSE_LIST:
            raise ValueError(f"`holds` belongs to a dense_list, and this one is {self.kind}.")
        if self.kind in _NUMBERS:
            self._require_range()
            return
        defaults = {"minimum": -math.inf, "maximum": math.inf, "fill": None, "scale": Scale.STANDARD}
        if unread := [key for key, default in defaults.items() if getattr(self, key) != default]:
            raise ValueError(f"`{unread[0]}` belongs to dense features, and this one is {self.kind}.")
        # The table's name becomes a file's name and a module's.
        if not re.fullmatch(r"[\w-]+", self.table):
            raise ValueError(
                f"its embedding table is named {shown(self.table)}; expected letters, digits, `_` and `-` alone. Give "
                "the feature such a name under `table:`."
            )

    def _require_beside(self) -> None:
        if not self.beside:
            raise ValueError("has no `beside`; expected the sparse_list whose elements its numbers are of.")
        if self.scale is Scale.STANDARD:
            raise ValueError("has `scale: standard`; expected log or none, for a dense_list is not fitted to data.")
        if strange := [part for part in self.used_by if part == INTERACTION_NETWORK]:
            raise ValueError(f"is used by {strange[0]}; expected {USER_TOWER} or {ITEM_TOWER}, which read events.")

    def _require_range(self) -> None:
        if self.table:
            raise ValueError(f"`table` belongs to sparse features, and this one is {self.kind}.")
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}; no value could be allowed.")
        if self.fill is not None and not self.minimum <= self.fill <= self.maximum:
            raise ValueError(
                f"`fill` is {self.fill:g}; expected a value from {self.minimum:g} to {self.maximum:g}, as declared."
            )
