"""What metrics are computed from: a ranker's logits beside the labels, and one figure per ranked query."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys.metrics.columns import Column

USER, TRUE_PROBABILITY = "user_key", "true_probability"
"""Extra columns that some metrics need: one number per user; the probability that a simulated label was drawn with."""
_EXTRA = "extra."


@dataclass(frozen=True)
class Predictions:
    """N rows in the order of their split.

    Attributes:
        logit: (N,) float32 as the ranker gave it.
        label: (N,) float32, each 0 or 1.
        segment: (N,) int64, each in [0, S).
        weight: (N,) float32.
        extra: (N,) each: what else the stream was asked for (`user_key`, `true_probability`, ...).
    """

    logit: Column
    label: Column
    segment: Column
    weight: Column
    extra: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Predictions need columns of one length, found {lengths}.")

    def __len__(self) -> int:
        return len(self.logit)

    def columns(self) -> dict[str, Column]:
        """Every column under the name that it has on disk."""
        own = {"logit": self.logit, "label": self.label, "segment": self.segment, "weight": self.weight}
        return own | {_EXTRA + name: column for name, column in self.extra.items()}

    def where(self, is_kept: Column) -> "Predictions":
        """The rows where `is_kept` (N,) bool is true."""
        return predictions_of({name: column[is_kept] for name, column in self.columns().items()})


def predictions_of(columns: Mapping[str, Column]) -> Predictions:
    """The inverse of `Predictions.columns`."""
    extra = {name.removeprefix(_EXTRA): column for name, column in columns.items() if name.startswith(_EXTRA)}
    return Predictions(columns["logit"], columns["label"], columns["segment"], columns["weight"], extra)


@dataclass(frozen=True)
class QueryValues:
    """One figure per query, such as its recall: (Q,) user, segment in [0, S), value."""

    user: Column
    segment: Column
    value: Column
