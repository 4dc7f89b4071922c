"""What each day of prepared rows holds, from the figures that the preparation wrote down: no row is read."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.manifest import FileEntry, part_path
from recsys.datasets.row_encoder import ELEMENTS, IDS, LISTS_EMPTY, OF_SEGMENT, POSITIVES
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.features.schema import FeatureKind, FeatureSchema


@dataclass(frozen=True)
class Share:
    """So many `of` all."""

    number: int = 0
    of: int = 0

    @property
    def value(self) -> float:
        """From 0 to 1; 0 of none."""
        return self.number / self.of if self.of else 0.0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.number + other.number, self.of + other.of)

    def __sub__(self, other: "Share") -> "Share":
        return Share(self.number - other.number, self.of - other.of)


def pooled(shares: Iterable[Share]) -> Share:
    """The share of several days together."""
    return sum(shares, Share())


@dataclass(frozen=True)
class DayProfile:
    """One UTC day.

    Attributes:
        is_training: whether vocabularies were fitted on its rows, so that none of its ids is unknown.
        segments: rows of each user segment, in the schema's order.
        without_value: feature -> rows in which it has no value: a number that is null, NaN or infinite, an id that is
            null or can be none, a list that is null or empty; of a list of numbers so many of its elements.
        unknown: sparse feature -> the ids in it that have no row in their table, of all that can be ids.
    """

    day: datetime.date
    rows: int = 0
    is_training: bool = False
    positives: Share = Share()
    segments: Mapping[str, int] = field(default_factory=dict)
    without_value: Mapping[str, Share] = field(default_factory=dict)
    unknown: Mapping[str, Share] = field(default_factory=dict)


def day_profiles(encoded: EncodedDataset) -> dict[datetime.date, DayProfile]:
    """Return every day that has rows of data that are split by days, in the order of the days."""
    found = [
        _profile(day, split == TRAIN, encoded.manifest.files[part_path(split, day)], encoded.contract.schema)
        for split in (TRAIN, VALIDATION, TEST)
        for day in encoded.manifest.splits.get(split, {})
    ]
    return {each.day: each for each in sorted(found, key=lambda each: each.day)}


def _profile(day: str, is_training: bool, entry: FileEntry, schema: FeatureSchema) -> DayProfile:
    rows, counted = entry.rows, entry.profile
    # What the encoder counts as no value, by the kind of the feature.
    names = {
        FeatureKind.DENSE: ("values filled: ",),
        FeatureKind.SPARSE: ("ids missing: ", "ids invalid: "),
        FeatureKind.SPARSE_LIST: (LISTS_EMPTY,),
        FeatureKind.DENSE_LIST: ("values filled: ",),
    }
    lacking = {one.name: sum(counted.get(what + one.name, 0) for what in names[one.kind]) for one in schema.features}
    elements = {one.name: counted.get(ELEMENTS + one.name, 0) for one in schema.dense_lists}
    return DayProfile(
        day=datetime.date.fromisoformat(day),
        rows=rows,
        is_training=is_training,
        positives=Share(counted.get(POSITIVES, 0), rows),
        segments={segment: counted.get(OF_SEGMENT + segment, 0) for segment in schema.segments},
        without_value={name: Share(number, elements.get(name, rows)) for name, number in lacking.items()},
        unknown={
            one.name: Share(counted.get(f"ids unknown: {one.name}", 0), counted.get(IDS + one.name, 0))
            for one in schema.sparse
        },
    )
