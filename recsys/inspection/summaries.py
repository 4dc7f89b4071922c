"""The figures of prepared rows: of a split, of a user segment in it, of a feature; plain values all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SegmentRows:
    """One user segment's rows in a split, and how many of them are positive."""

    segment: str
    rows: int
    positives: int

    @property
    def label_rate(self) -> float | None:
        """Share of positive rows; None where there are no rows."""
        return self.positives / self.rows if self.rows else None


@dataclass(frozen=True)
class SplitSummary:
    """One split, all of its rows.

    Attributes:
        first_day, last_day: UTC days, "2011-06-30".
        known_users, known_items: how many that have a row of their own in the embedding tables are met.
        unseen_user_share, unseen_item_share: of the rows, those whose id was not seen in training (or is missing).
        rows_looked_at: of so many the features are told; 0 in splits after validation.
    """

    split: str
    rows: int
    first_day: str
    last_day: str
    positives: int
    known_users: int
    known_items: int
    unseen_user_share: float
    unseen_item_share: float
    segments: tuple[SegmentRows, ...]
    rows_looked_at: int

    @property
    def label_rate(self) -> float:
        """Share of positive rows."""
        return self.positives / self.rows

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SplitSummary":
        """Make one of its plain values."""
        return cls(**{**document, "segments": tuple(SegmentRows(**each) for each in document["segments"])})


@dataclass(frozen=True)
class MeasuredAuc:
    """An AUC with its standard error and the number of rows of the rarer label."""

    value: float
    error: float
    scarcer_rows: int


@dataclass(frozen=True)
class FeatureInSplit:
    """One feature in the rows of a split that were looked at.

    Attributes:
        coverage: share of rows with a value. Of ids: with a known one; of lists: not empty. Of numbers: not the fill's
            value, where the preparation filled any; a value that equals it by itself counts as filled.
        mean_length: of lists.
        auc: of the feature alone; None where all labels are equal.
    """

    coverage: float
    mean_length: float | None
    auc: MeasuredAuc | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "FeatureInSplit":
        """Make one of its plain values."""
        return cls(**{**document, "auc": document["auc"] and MeasuredAuc(**document["auc"])})


@dataclass(frozen=True)
class FeatureSummary:
    """One feature in training and in validation (None: that split has no rows).

    Attributes:
        kind: one of `FeatureKind`, or "segment".
        is_constant: in training it has one value alone; of lists: all are empty.
        known_auc: in those rows of validation whose user and item training knows.
    """

    name: str
    kind: str
    is_constant: bool
    training: FeatureInSplit
    validation: FeatureInSplit | None = None
    known_auc: MeasuredAuc | None = None

    @property
    def splits(self) -> dict[str, FeatureInSplit]:
        """What is known of it, by the split's name."""
        return {"training": self.training} | ({"validation": self.validation} if self.validation else {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "FeatureSummary":
        """Make one of its plain values."""
        later, known = document["validation"], document["known_auc"]
        made = {
            "training": FeatureInSplit.from_document(document["training"]),
            "validation": later and FeatureInSplit.from_document(later),
            "known_auc": known and MeasuredAuc(**known),
        }
        return cls(**{**document, **made})
