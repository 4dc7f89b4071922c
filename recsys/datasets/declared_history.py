"""The `history` of a `table:` block: which features are counted from the past, by what, and of what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from recsys.datasets.declared_durations import Duration
from recsys.datasets.past import AGE_DAYS, Before, ListedRows, PastFeature, PastKind
from recsys.errors import UsageError, did_you_mean
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Named, Text
from recsys.features.schema import FeatureSchema

_AGE = "age_days"
_SPANS = ("window", "ago", "before")
_COUNTED = ("by", *_SPANS, "folds", "leave_one_out")
_KEYS: Mapping[PastKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    PastKind.COUNT: (("by",), _COUNTED),
    PastKind.SUM: (("by", "of"), ("of", *_COUNTED)),
    PastKind.MEAN: (("by", "of", "prior_rows"), ("of", "prior_rows", *_COUNTED)),
    PastKind.SHARE: (("by",), ("within", "prior_rows", *_COUNTED)),
    PastKind.MINIMUM: (("by", "of"), ("of", "by", *_SPANS)),
    PastKind.MAXIMUM: (("by", "of"), ("of", "by", *_SPANS)),
    PastKind.DISTINCT: (("by", "of"), ("of", "by", *_SPANS)),
    PastKind.DAYS_SINCE_LAST: (("by",), ("by", *_SPANS)),
    PastKind.DAYS_SINCE_FIRST: (("by",), ("by", "before")),
    PastKind.RECENT: (
        ("by", "of", "length"),
        ("by", "of", "beside", "length", "distinct", "rows", "leave_one_out", *_SPANS),
    ),
    PastKind.CO_OCCURRENCE: (("of", "to", "together"), ("by", "of", "to", "together")),
}
"""Kind -> the keys that it must have, and all that it may have."""


class HistoryScope(StrEnum):
    """Whose events may be known: every earlier one (as in live serving), or earlier training events alone."""

    LIVE = "live"
    TRAIN_ONLY = "train_only"


@dataclass(frozen=True)
class HistoryEntry(Declaration):
    """One feature; see `PastFeature`, which counts it.

    Of a list `beside` another one, `of` may be the word `age_days`: how many days before the row each event was. For
    kind co_occurrence, `by` is `of` where it is not declared.
    """

    kind: Annotated[PastKind, Expected("one of", PastKind)]
    by: Annotated[Listed[Text], Field(min_length=1), Expected("a list of columns such as [item_id]")] = ()
    of: Text = ""
    within: Annotated[Listed[Text], Expected("a list of some of the columns of `by`")] = ()
    window: Duration = 0
    ago: Duration = 0
    before: Annotated[Before, Expected("one of", Before)] = Before.EVENT
    prior_rows: Annotated[
        float, Field(strict=True, ge=0, allow_inf_nan=False), Expected("a number from 0 up"), NOT_NULL
    ] = 0.0
    length: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0
    distinct: Annotated[bool, Field(strict=True), Expected("true or false"), NOT_NULL] = False
    rows: Annotated[ListedRows, Expected("one of", ListedRows)] = ListedRows.LIKED
    beside: Text = ""
    to: Text = ""
    together: Text = ""
    folds: Annotated[int, Field(strict=True, ge=2), Expected("a whole number from 2 up"), NOT_NULL] = 0
    leave_one_out: Annotated[bool, Field(strict=True), Expected("true or false"), NOT_NULL] = False

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Those of its kind; of no kind that is known, all, so that the kind is what is refused."""
        for kind, (needed, known) in _KEYS.items():
            if values.get("kind") == kind:
                return ("kind", *known), ("kind", *needed)
        return super().keys(values)[0], ()

    def __post_init__(self) -> None:
        """Refuse spans that say nothing."""
        if self.ago and not self.window:
            raise ValueError("has `ago` without `window`; expected both: the window ends so long ago.")
        if strange := set(self.within) - set(self.by) or (self.within and set(self.within) == set(self.by)):
            found = strange if isinstance(strange, set) else set(self.within)
            raise ValueError(f"`within` has {sorted(found)}; expected some, but not all, of the columns of `by`.")

    @property
    def keyed_by(self) -> tuple[str, ...]:
        """The columns of a row that choose its past."""
        return self.by or (self.of,)

    @property
    def is_age(self) -> bool:
        """Whether it lists how long ago events were, which no column holds."""
        return bool(self.beside) and self.of == _AGE

    @property
    def columns(self) -> list[str]:
        """The columns of events, and of the row, that it is counted by and of."""
        of = () if self.is_age else (self.of,)
        return [name for name in (*self.keyed_by, *of, self.beside, self.together) if name]

    @property
    def needs_days(self) -> str:
        """The key for which moments must be times; empty where an order is enough."""
        keys = {"window": self.window, "before": self.before is Before.DAY, f"of: {_AGE}": self.is_age}
        found = next((key for key, is_asked in keys.items() if is_asked), "")
        is_span = self.kind in (PastKind.DAYS_SINCE_FIRST, PastKind.DAYS_SINCE_LAST)
        return found or (f"kind: {self.kind}" if is_span or self.kind is PastKind.CO_OCCURRENCE else "")

    def counted_as(self, name: str, *, age: str = AGE_DAYS) -> PastFeature:
        """The feature, as it is counted.

        Args:
            age: of ages, whether they are `AGE_DAYS` or `AGE`.
        """
        values = {key: getattr(self, key) for key in vars(self)}
        return PastFeature(name=name, **values | {"by": self.keyed_by, "of": age if self.is_age else self.of})


@dataclass(frozen=True)
class HistoryRule(Declaration):
    """The block: whose events may be known, and the features by their names in the schema or in `derive`."""

    scope: Annotated[HistoryScope, Expected("one of", HistoryScope)] = HistoryScope.LIVE
    features: Named[HistoryEntry] = field(default_factory=dict)

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Both, unless the block is empty."""
        known = ("scope", "features")
        return known, known if values else ()


Order = Literal["time", "position", "none"]
"""What says which of two events was earlier: their times, their places in a user's own order, or nothing."""


def check_history(
    rule: HistoryRule, schema: FeatureSchema, read: Sequence[str], labels: Sequence[str], order: Order, where: str
) -> None:
    """Refuse features of the wrong kind, that nothing reads, or that could not be counted.

    Args:
        read: names that something besides the schema's features reads: derived columns, the segment, other features.
        labels: the names of the label, in the schema and in the files.

    Raises:
        UsageError: names the feature and what it may not name.
    """
    declared = {feature.name: feature for feature in schema.features}
    for name, entry in rule.features.items():
        place, is_recent = f"{where}.features.{name}", entry.kind is PastKind.RECENT
        if name not in declared and name not in read:
            raise UsageError(
                f"{place}: the schema declares no feature of this name{did_you_mean(name, declared)}, and no other "
                "feature or expression reads it; a feature of the past needs one of them."
            )
        if name in declared and declared[name].is_list != is_recent:
            raise UsageError(
                f"{place}: the schema declares it with kind {declared[name].kind}; expected "
                f"{'sparse_list or dense_list' if is_recent else 'dense or sparse'} for kind {entry.kind}."
            )
        if name in declared and declared[name].beside:
            _check_beside(entry, declared[name].beside, rule, place)
        if label := [column for column in entry.by if column in labels]:
            raise UsageError(
                f"{place}: by names the label `{label[0]}`; the past of a row cannot be chosen by its own label, "
                "which is not known yet."
            )
        if entry.kind is PastKind.CO_OCCURRENCE:
            other = rule.features.get(entry.to)
            if other is None or other.kind is not PastKind.RECENT or other.of != entry.of or other.leave_one_out:
                raise UsageError(
                    f"{place}: `to` is {entry.to}; expected a feature of kind recent, of: {entry.of}, without "
                    f"`leave_one_out`, under {where}.features{did_you_mean(entry.to, rule.features)}."
                )
        _check_folds(entry, rule, schema, order, place)
        _check_order(entry, schema, order, place)


def _check_beside(entry: HistoryEntry, leader: str, rule: HistoryRule, place: str) -> None:
    """Refuse a list that the schema puts beside another one, but that would list other events."""
    other = rule.features.get(leader)
    listed = replace(entry, of=entry.beside, beside="") if entry.beside else entry
    if other is None or listed != other:
        raise UsageError(
            f"{place}: the schema says that it stands beside `{leader}`, so both must list the same events; expected "
            f"`beside: {other.of if other else '<what the other lists>'}`, and `by`, `length`, `rows` and all else as "
            f"under `{leader}`."
        )


def _check_folds(entry: HistoryEntry, rule: HistoryRule, schema: FeatureSchema, order: Order, place: str) -> None:
    if entry.folds and entry.window:
        raise UsageError(f"{place}: has `folds` and `window`; expected one, as folds count whatever the time.")
    if entry.leave_one_out:
        _check_leave_one_out(entry, rule, place)
    if entry.folds and rule.scope is not HistoryScope.TRAIN_ONLY:
        raise UsageError(
            f"{place}: folds stand in a history of scope {rule.scope}; expected train_only. Counted over all other "
            "users whatever the time, a row would see labels that lie in its future."
        )
    if entry.folds and schema.user in entry.by:
        raise UsageError(
            f"{place}: by names `{schema.user}`, but folds are made of users, so a training row would count "
            "nothing; expected no folds, or other columns in by."
        )


def _check_leave_one_out(entry: HistoryEntry, rule: HistoryRule, place: str) -> None:
    if rule.scope is not HistoryScope.TRAIN_ONLY:
        raise UsageError(
            f"{place}: `leave_one_out` stands in a history of scope {rule.scope}; expected train_only. Of all others "
            "whatever the time, a row would see labels that lie in its future."
        )
    others = {key: getattr(entry, key) for key in ("folds", "window", "ago", "distinct")}
    others["before"] = entry.before is Before.DAY
    if key := next((key for key, is_asked in others.items() if is_asked), ""):
        raise UsageError(f"{place}: has `leave_one_out` and `{key}`; expected one, as it looks whatever the time.")


def _check_order(entry: HistoryEntry, schema: FeatureSchema, order: Order, place: str) -> None:
    """Refuse what needs times where there are none, and say what to use instead."""
    if order == "time" or entry.folds:
        return
    if entry.leave_one_out:
        if key := entry.needs_days:
            raise UsageError(f"{place}: `{key}` needs times; declare `table.time`, or leave this feature out.")
        return
    if order == "none":
        raise UsageError(
            f"{place}: the events have no time, so none of them is known to be earlier. Declare `table.time`, or "
            "`table.position` if the order is known; or count out of fold: `folds: 10` with `scope: train_only`."
        )
    if key := entry.needs_days:
        raise UsageError(
            f"{place}: `{key}` needs times, and the events have positions. Count over all the past instead, without "
            "it, or declare `table.time`."
        )
    if schema.user not in entry.by:
        raise UsageError(
            f"{place}: positions order the events of one user, so none of another's is known to be earlier; expected "
            f"`{schema.user}` in by, or `folds: 10` with `scope: train_only`."
        )
