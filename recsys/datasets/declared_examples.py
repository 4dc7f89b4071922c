"""What is declared of the examples: which rows belong together, what else could have been chosen, and the negatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from recsys.datasets.declared_durations import Duration
from recsys.datasets.declared_tables import Keep
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Named, Text

_Number = Annotated[int, Field(strict=True, ge=1), Expected("a whole number from 1 up"), NOT_NULL]
_Keep = Annotated[Keep, Expected("one of", Keep)]


@dataclass(frozen=True)
class QueryRule(Declaration):
    """Which events are one choice of a user: those of a column's value, of a session, or each event by itself.

    A query begins with its first event, and everything counted for it is counted before then.

    Attributes:
        column: events of one value in it are one query, such as an invoice.
        session: events of a user are one query as long as no more than this passes between two of them.
        next: each event is a query of its own.
        keep: columns of the events that are known when the query begins (a country, a device), with the value that is
            taken of several.
    """

    column: Text = ""
    session: Duration = 0
    next: Annotated[Literal["", "event"], Expected("the word event")] = ""
    keep: Named[_Keep] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse none and several."""
        if [bool(self.column), bool(self.session), bool(self.next)].count(True) != 1:
            raise ValueError("expected exactly one of `column: <column>`, `session: 30m` and `next: event`.")


@dataclass(frozen=True)
class CandidateRule(Declaration):
    """The items that a query chooses from; with none of the keys, every item of the training events.

    Attributes:
        within: items with an event in so long a time before the query's day.
        top: the so many items with the most events, in `within` where it is declared, else in training.
        column: a list column of the query that holds the items.
        nearest: of all those, the so many nearest to the user by the tower, found when a trained run ranks.
    """

    within: Duration = 0
    top: _Number | Literal[0] = 0
    column: Text = ""
    nearest: _Number | Literal[0] = 0

    def __post_init__(self) -> None:
        """Refuse a list that is said twice."""
        if self.column and (self.within or self.top):
            raise ValueError("has `column` beside `within` or `top`; expected one of them to say the items.")


@dataclass(frozen=True)
class NegativeRule(Declaration):
    """Candidates that were not chosen, drawn for each positive in proportion to their count to a power.

    Attributes:
        per_positive: how many.
        power: of the candidate's number of events (in `candidates.within`, else in training); 0 draws uniformly.
    """

    per_positive: Annotated[int, Field(strict=True, ge=1), Expected("a whole number from 1 up")]
    power: Annotated[float, Field(strict=True, ge=0, le=4), Expected("a number from 0 to 4"), NOT_NULL] = 0.0
    seed: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0


@dataclass(frozen=True)
class RankingRule(Declaration):
    """How many queries of the validation and the test split rank their candidates; 0: all of them."""

    validation_queries: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0
    test_queries: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Both may be left out."""
        return ("validation_queries", "test_queries"), ()
