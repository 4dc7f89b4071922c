"""The `history` of a `table:` block: which features are counted from other rows, by what, and of what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from recsys.datasets.history_features import HistoryFeature, HistoryKind, HistoryScope
from recsys.errors import UsageError, did_you_mean
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Named, Text
from recsys.features.schema import FeatureKind, FeatureSchema

_NEEDED = {HistoryKind.MEAN: ("of", "prior_rows"), HistoryKind.RECENT: ("of", "length"), HistoryKind.COUNT: ()}


@dataclass(frozen=True)
class HistoryEntry(Declaration):
    """One feature; see `HistoryFeature`."""

    kind: Annotated[HistoryKind, Expected("one of", HistoryKind)]
    by: Annotated[Listed[Text], Field(min_length=1), Expected("a list of columns such as [item_id]")]
    of: Text = ""
    prior_rows: Annotated[
        float, Field(strict=True, ge=0, allow_inf_nan=False), Expected("a number from 0 up"), NOT_NULL
    ] = 0.0
    length: Annotated[int, Field(strict=True, ge=0), Expected("a whole number from 0 up"), NOT_NULL] = 0
    folds: Annotated[int, Field(strict=True, ge=2), Expected("a whole number from 2 up"), NOT_NULL] = 0

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Those of its kind; of no kind that is known, all, so that the kind is what is refused."""
        for kind, needed in _NEEDED.items():
            if values.get("kind") == kind:
                required = ("kind", "by", *needed)
                return (required if kind is HistoryKind.RECENT else (*required, "folds")), required
        return super().keys(values)[0], ()


@dataclass(frozen=True)
class HistoryRule(Declaration):
    """The block: whose labels may be known, and the features by their names in the schema."""

    scope: Annotated[HistoryScope, Expected("one of", HistoryScope)] = HistoryScope.LIVE
    features: Named[HistoryEntry] = field(default_factory=dict)

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Both, unless the block is empty."""
        known = ("scope", "features")
        return known, known if values else ()

    @property
    def counted(self) -> tuple[HistoryFeature, ...]:
        """The features, as they are counted."""
        return tuple(
            HistoryFeature(name, one.kind, one.by, one.of, one.prior_rows, one.length, one.folds)
            for name, one in self.features.items()
        )


def check_history(rule: HistoryRule, schema: FeatureSchema, labels: Sequence[str], where: str) -> None:
    """Refuse features that the schema does not have, and those that would count nothing, themselves or a label.

    Args:
        labels: the names of the label, in the schema and in the files.

    Raises:
        UsageError: names the feature and what it may not name.
    """
    declared = {feature.name: feature for feature in schema.features}
    for name, entry in rule.features.items():
        place, is_recent = f"{where}.features.{name}", entry.kind is HistoryKind.RECENT
        if name not in declared or (declared[name].kind is FeatureKind.SPARSE_LIST) != is_recent:
            hint = "" if name in declared else did_you_mean(name, declared)
            raise UsageError(
                f"{place}: the schema declares no feature of this name{hint} with kind "
                f"{'sparse_list' if is_recent else 'dense'}; a history feature needs one."
            )
        if counted := [column for column in (*entry.by, entry.of) if column in rule.features]:
            raise UsageError(f"{place}: names `{counted[0]}`, which is counted itself; expected a column of the files.")
        if label := [column for column in entry.by if column in labels]:
            raise UsageError(
                f"{place}: by names the label `{label[0]}`; the past of a row cannot be chosen by its own label, "
                "which is not known yet."
            )
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
