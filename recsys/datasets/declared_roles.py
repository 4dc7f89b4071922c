"""What is declared of the roles that a row has beside its features: its label, its segment, its split."""

import datetime
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from recsys.datasets.declared_values import Declared
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.features.declaration import NOT_NULL, ByValue, Declaration, Expected, Listed, Text, such_that

CLUSTER = "segment_cluster"
"""The column that clustered vectors bring to the events: the name of the segment."""

_SPLITS = (TRAIN, VALIDATION, TEST)
_COMPARISON = re.compile(r"^(?P<column>.+?)\s*(?P<operator>>=|<=|==|!=|>|<)\s*(?P<value>[^<>=!]+)$")


@dataclass(frozen=True)
class LabelRule:
    """Label 1 where `column` stands in the relation `operator` to `value`; with no operator, the column's own 0 or 1.

    >>> LabelRule.parse("rating > 3")
    LabelRule(column='rating', operator='>', value=3)
    >>> LabelRule.parse("clicked")
    LabelRule(column='clicked', operator='', value='')
    """

    column: str
    operator: str = ""
    value: Declared = ""

    @classmethod
    def parse(cls, text: str) -> "LabelRule":
        """Read "column" or "column > value"; a value in quotation marks is text."""
        if not isinstance(text, str) or not text:
            raise ValueError
        if not (match := _COMPARISON.match(text.strip())):
            return cls(text.strip())
        return cls(match["column"].strip(), match["operator"], _value_of(match["value"].strip()))


def _value_of(word: str) -> Declared:
    """What an unquoted word stands for; what would be written otherwise, as 007 would, is text."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for form in (int, float):
        with suppress(ValueError):
            if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e-?\d+)?", word):
                return form(word)
    return word.strip("'\"")


def _in_a_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _moment(value: Any) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(str(value))
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment


Values = Annotated[
    tuple[Any, ...],
    BeforeValidator(_in_a_tuple),
    such_that(lambda values: all(isinstance(value, Declared) for value in values)),
    Expected("a value of the column. An empty place in the files needs no declaration"),
]
_Moment = Annotated[datetime.datetime, PlainValidator(_moment), Expected("a UTC date or time such as 2011-07-01")]


def _shares(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping) or set(found) != set(_SPLITS):
        raise ValueError
    shares = {split: float(found[split]) for split in _SPLITS}
    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError
    return shares


_Shares = Annotated[
    dict[str, float],
    PlainValidator(_shares),
    Expected("three positive shares that add up to 1: {train: 0.8, validation: 0.1, test: 0.1}"),
]


@dataclass(frozen=True)
class SegmentRule(Declaration):
    """The segment of a row, from `column`.

    The column may be a feature of the past or a derived one. With `bins`, rising numbers b1, b2, ...: the first segment
    below b1, the second from b1 to below b2, and so on. No numbers, which are not the same as None, put every row that
    has a value into the only segment. With `names`: raw values, each with its segment. With neither, the column's
    values are the segments' names.

    In place of a column, `vectors` names a Parquet file below the raw folder with a vector for each value of `key`:
    they are clustered into as many segments as the schema has, drawn with `seed`.

    Attributes:
        missing: the segment of rows without a value; empty: they are an error.
        other: the segment of rows with a value that has none; empty: they are an error.
    """

    column: Text = ""
    bins: Annotated[
        Listed[Annotated[float, Field(strict=True)]] | None, Expected("a list of rising numbers"), NOT_NULL
    ] = None
    names: ByValue[Text] = field(default_factory=dict)
    missing: Text = ""
    other: Text = ""
    vectors: Text = ""
    key: Text = ""
    seed: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Those of a column, or those of vectors."""
        if "vectors" in values:
            return ("vectors", "key", "seed", "missing"), ("vectors", "key")
        return ("column", "bins", "names", "missing", "other"), ("column",)

    def __post_init__(self) -> None:
        """Refuse two rules at once."""
        if self.vectors:
            object.__setattr__(self, "column", CLUSTER)
        if self.bins is not None and (self.names or self.other):
            what = "`names`" if self.names else "`other`"
            raise ValueError(f"has both `bins` and {what}; expected one of them.")
        if strange := [value for value in self.names if not isinstance(value, Declared)]:
            raise ValueError(f"names has the key {strange[0]!r}; expected values of the column.")


@dataclass(frozen=True)
class SplitRule(Declaration):
    """Which rows are train, validation and test, where the files do not say it. One of four rules:

    - `column` with the raw values of each split;
    - by time: train from `train_start` (None: from the first) to before `validation_start`, validation to before
      `test_start`, test to before `test_end` (None: to the end). Events before `train_start` are past, no examples;
    - `leave_last` n: of each user who has more than 2 n events the last n are test, the n before them validation;
    - `shares` of the three, `by` `row`, `user` (drawn with `seed`) or `time` (the earliest rows are train).

    Rows outside every split are left out and counted.
    """

    column: Text = ""
    train: Values = ()
    validation: Values = ()
    test: Values = ()
    train_start: _Moment | None = None
    validation_start: _Moment | None = None
    test_start: _Moment | None = None
    test_end: _Moment | None = None
    leave_last: Annotated[int, Field(strict=True, ge=1), Expected("a whole number from 1 up"), NOT_NULL] = 0
    shares: _Shares = field(default_factory=dict)
    by: Annotated[Literal["row", "user", "time"], Expected("one of", ("row", "user", "time"))] = "row"
    seed: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Those of the rule that its first key tells."""
        if "column" in values:
            return ("column", *_SPLITS), ("column", *_SPLITS)
        if "leave_last" in values:
            return ("leave_last",), ("leave_last",)
        if "shares" in values:
            return ("shares", "by", "seed"), ("shares", "by")
        return ("train_start", "validation_start", "test_start", "test_end"), ("validation_start", "test_start")

    def __post_init__(self) -> None:
        """Refuse spans of time that do not follow one another, and a value of two splits."""
        starts = [start for start in self.dates.values() if start is not None]
        if any(later <= earlier for earlier, later in pairwise(starts)):
            found = ", ".join(map(str, starts))
            raise ValueError(f"{', '.join(self.dates)} must rise; found {found}.")
        words = [str(value) for value, _ in self.values]
        if repeated := [value for value, _ in self.values if words.count(str(value)) > 1]:
            raise ValueError(f"the value {repeated[0]!r} stands in two splits; expected one.")

    @property
    def dates(self) -> dict[str, datetime.datetime | None]:
        """The dates of the rule by time, in order."""
        return {name: getattr(self, name) for name in ("train_start", "validation_start", "test_start", "test_end")}

    @property
    def is_by_time(self) -> bool:
        """Whether dates divide the rows."""
        return self.validation_start is not None

    @property
    def needs_times(self) -> str:
        """The key that cannot be meant where events have no times; empty where none needs them."""
        return "validation_start" if self.is_by_time else "shares.by: time" if self.shares and self.by == "time" else ""

    @property
    def values(self) -> tuple[tuple[Declared, str], ...]:
        """Raw values, each with its split."""
        return tuple((value, split) for split in _SPLITS for value in getattr(self, split))
