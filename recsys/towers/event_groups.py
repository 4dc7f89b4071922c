"""Which lists of a schema a history tower reads: a user's events, an item's, and what stands beside each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.errors import UsageError
from recsys.features.schema import ITEM_TOWER, USER_TOWER, Feature, FeatureKind, FeatureSchema


@dataclass(frozen=True)
class EventGroup:
    """One side's events: lists that agree element by element, and the row's own features that they are compared with.

    Attributes:
        side: "user" or "item": whose events they are.
        own: the row's feature that shares the table of `events`: the candidate, or the user who looks at it.
        events: the list of whom or what the side met.
        attributes: the row's feature -> the list beside `events` that shares its table.
        values: dense lists that say how each event went; none where it is enough that it was.
        ages: the dense list of the events' ages in days, or None.
    """

    side: str
    own: str
    events: str
    attributes: tuple[tuple[str, str], ...]
    values: tuple[str, ...]
    ages: str | None

    @property
    def features(self) -> tuple[str, ...]:
        """All features that it reads."""
        beside = (*(name for pair in self.attributes for name in pair), *self.values)
        return (self.own, self.events, *beside, *((self.ages,) if self.ages else ()))

    @property
    def num_values(self) -> int:
        """C: the columns of values, one of ones where none is declared."""
        return max(1, len(self.values))


def event_groups(schema: FeatureSchema) -> tuple[EventGroup, ...]:
    """Return the user's events and the item's, as far as the schema declares them.

    A user's events are a list of the user tower that shares the item's table, an item's are one of the item tower that
    shares the user's; of several the first that has lists of numbers beside it, else the first.

    Raises:
        UsageError: neither is declared, or a list beside one shares its table with no feature of the row.
    """
    asked = (("user", USER_TOWER, schema.item), ("item", ITEM_TOWER, schema.user))
    groups = [_group(schema, side, part, own) for side, part, own in asked]
    found = tuple(group for group in groups if group is not None)
    if not found:
        raise UsageError(
            f"Schema `{schema.name}` has no events for a history tower: no sparse_list that {USER_TOWER} reads shares "
            f"the table of `{schema.item}`, and none that {ITEM_TOWER} reads shares that of `{schema.user}`. Declare "
            "one (`table.history`, kind: recent), or choose tower=two_tower."
        )
    return found


def _group(schema: FeatureSchema, side: str, part: str, own: str) -> EventGroup | None:
    lists = [
        feature
        for feature in schema.used_by(part)
        if feature.kind is FeatureKind.SPARSE_LIST and feature.table == schema.feature(own).table and not feature.beside
    ]
    if not lists:
        return None
    events = next((feature for feature in lists if _numbers(schema.beside(feature.name))), lists[0])
    beside = [feature for feature in schema.beside(events.name) if part in feature.used_by]
    ids = [feature for feature in beside if feature.kind is FeatureKind.SPARSE_LIST]
    return EventGroup(
        side=side,
        own=own,
        events=events.name,
        attributes=tuple((_own_of(schema, each), each.name) for each in ids),
        values=tuple(feature.name for feature in _numbers(beside) if feature.holds == "value"),
        ages=next((feature.name for feature in _numbers(beside) if feature.holds == "age_days"), None),
    )


def _numbers(features: Sequence[Feature]) -> list[Feature]:
    return [feature for feature in features if feature.kind is FeatureKind.DENSE_LIST]


def _own_of(schema: FeatureSchema, beside: Feature) -> str:
    sharing = [f.name for f in schema.sparse if f.kind is FeatureKind.SPARSE and f.table == beside.table]
    if not sharing:
        raise UsageError(
            f"Schema `{schema.name}`: `{beside.name}` shares its table `{beside.table}` with no sparse feature of the "
            f"row, so a history tower has nothing to compare its ids with. Give it the `table` of such a feature, or "
            "leave it out of the towers."
        )
    return sharing[0]
