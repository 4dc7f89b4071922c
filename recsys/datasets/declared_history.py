"""The `history` of a `table:` block: which features are counted from other rows, by what, and of what."""

from collections.abc import Sequence

from recsys.datasets.declared_block import Block
from recsys.datasets.history import HistoryFeature, HistoryKind, HistoryScope
from recsys.errors import UsageError, did_you_mean
from recsys.features.schema import FeatureKind, FeatureSchema


def history_from(block: Block, schema: FeatureSchema) -> tuple[HistoryScope, tuple[HistoryFeature, ...]]:
    """Read the block `history`.

    Raises:
        UsageError: a key or value in it cannot be meant; names it.
    """
    if not block.values:
        return HistoryScope.LIVE, ()
    block.require(("scope", "features"), required=("scope", "features"))
    scope = HistoryScope(block.choice("scope", tuple(HistoryScope)))
    entries = block.inner("features")
    declared = {feature.name: feature for feature in schema.features}
    features = []
    for name in entries.values:
        entry = entries.inner(name)
        kind = HistoryKind(entry.choice("kind", tuple(HistoryKind)))
        needs = {HistoryKind.MEAN: ("of", "prior_rows"), HistoryKind.RECENT: ("of", "length"), HistoryKind.COUNT: ()}
        optional = () if kind is HistoryKind.RECENT else ("folds",)
        entry.require(("kind", "by", *needs[kind], *optional), required=("kind", "by", *needs[kind]))
        is_list = name in declared and declared[name].kind is FeatureKind.SPARSE_LIST
        if name not in declared or is_list != (kind is HistoryKind.RECENT):
            hint = "" if name in declared else did_you_mean(name, declared)
            raise UsageError(
                f"{entry.where}: the schema declares no feature of this name{hint} with kind "
                f"{'sparse_list' if kind is HistoryKind.RECENT else 'dense'}; a history feature needs one."
            )
        by = entry.values["by"]
        if not isinstance(by, list) or not by or not all(isinstance(column, str) for column in by):
            raise UsageError(f"{entry.where}: by is {by!r}; expected a list of columns such as [item_id].")
        _require_past(entry, [*by, entry.values.get("of", "")], [*entries.values])
        features.append(
            HistoryFeature(
                name=name,
                kind=kind,
                by=tuple(by),
                of=entry.text("of") if "of" in entry.values else "",
                prior_rows=entry.number("prior_rows"),
                length=int(entry.number("length")),
                folds=_folds(entry, scope, schema.user) if "folds" in entry.values else 0,
            )
        )
    return scope, tuple(features)


def _require_past(entry: Block, columns: Sequence[str], counted: Sequence[str]) -> None:
    """Refuse what is counted by or of another feature of the past."""
    if told := [column for column in columns if column in counted]:
        raise UsageError(f"{entry.where}: names `{told[0]}`, which is counted itself; expected a column of the files.")


def _folds(entry: Block, scope: HistoryScope, user: str) -> int:
    folds = entry.number("folds")
    if folds < 2 or folds != int(folds):
        raise UsageError(f"{entry.where}: folds is {folds:g}; expected a whole number from 2 up.")
    if scope is not HistoryScope.TRAIN_ONLY:
        raise UsageError(
            f"{entry.where}: folds stand in a history of scope {scope}; expected train_only. Counted over all other "
            "users whatever the time, a row would see labels that lie in its future."
        )
    if user in entry.values["by"]:
        raise UsageError(
            f"{entry.where}: by names `{user}`, but folds are dealt by user, so a training row would count nothing; "
            "expected no folds, or other columns in by."
        )
    return int(folds)
