"""What a user should look at in prepared rows: labels that leak into features, empty features, segments and ids."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys.datasets.source import TRAIN, VALIDATION
from recsys.features.schema import FeatureKind
from recsys.inspection.summaries import FeatureSummary, MeasuredAuc, SplitSummary

# Hardly any honest feature gets there alone: the best rankers of public click data, on all features, stay below 0.85.
_LEAK_AUC = 0.95
_MOST_GAP, _MOST_ERRORS = 0.1, 4
# With fewer rows of the rarer label any AUC may come about by chance.
_LEAST_ROWS = 20
_LEAST_COVERAGE = 0.01
_MOST_UNSEEN = 0.9


@dataclass(frozen=True)
class DataFinding:
    """One thing to look at.

    Attributes:
        subject: a feature's, segment's or split's name.
        found: what was seen, with its figures.
        means: what it usually means.
        do: what to do about it.
    """

    subject: str
    found: str
    means: str
    do: str


def findings_of(splits: Sequence[SplitSummary], features: Sequence[FeatureSummary]) -> tuple[DataFinding, ...]:
    """Return what stands out, the gravest first."""
    leaks = [finding for feature in features if (finding := _better_in_training(feature) or _leak(feature))]
    empty = [finding for feature in features if (finding := _no_value(feature))]
    return (*leaks, *_of_splits(splits), *empty)


def _leak(feature: FeatureSummary) -> DataFinding | None:
    judged = {name: value.value for name, look in feature.splits.items() if (value := _judged(look.auc))}
    if not any(value > _LEAK_AUC for value in judged.values()):
        return None
    shown = ", ".join(f"{value:.3f} in {name}" for name, value in judged.items())
    return DataFinding(
        feature.name,
        f"by itself it separates the labels with an AUC of {shown}",
        "it is made of the label, or becomes known only after it",
        "check when its value is known; leave it out, or compute it from what lies before the row's time",
    )


def _better_in_training(feature: FeatureSummary) -> DataFinding | None:
    known, later = _judged(feature.training.auc), feature.validation
    held_out = _judged(later.auc) if later else None
    if later is None or known is None or held_out is None or not _is_far_better(known, held_out):
        return None
    error = math.hypot(known.error, held_out.error)
    found = (
        f"its AUC is {known.value:.3f} in training and {held_out.value:.3f} in validation (standard error {error:.3f})"
    )
    if later.coverage < feature.training.coverage / 2:
        return DataFinding(
            feature.name,
            f"{found}; its coverage {feature.training.coverage:.1%} and {later.coverage:.1%}",
            "its values are met in training and hardly again, so that what is learnt of them is of no use later",
            "leave it out, or put in its place what is known of new values too",
        )
    of_known = _judged(feature.known_auc)
    if of_known and not _is_far_better(known, of_known):
        return DataFinding(
            feature.name,
            f"{found}; {of_known.value:.3f} in the rows of users and items that training knows",
            "it tells of those that training knows, and many of validation's are others",
            "nothing is wrong with it; features that tell of new users and items too will count for more",
        )
    if feature.kind != FeatureKind.DENSE:
        return DataFinding(
            feature.name,
            found,
            "its values stand for single users or other few rows of training, and what is learnt of them does not last",
            "make its values coarser, or leave it out; check that they were not made with the labels",
        )
    return DataFinding(
        feature.name,
        found,
        "it was computed with the labels of the training rows, each row's own among them",
        "compute it from rows before the row's own time alone; if it is so already, its meaning changes with time",
    )


def _is_far_better(one: MeasuredAuc, other: MeasuredAuc) -> bool:
    gap = one.value - other.value
    return gap > _MOST_GAP and gap >= _MOST_ERRORS * math.hypot(one.error, other.error)


def _judged(value: MeasuredAuc | None) -> MeasuredAuc | None:
    return value if value and value.scarcer_rows >= _LEAST_ROWS else None


def _no_value(feature: FeatureSummary) -> DataFinding | None:
    if feature.is_constant:
        found = "it has one value alone in training"
        return DataFinding(
            feature.name, found, "nothing can be learnt from it", "leave it out, or mend where it is made"
        )
    scarce = {name: look.coverage for name, look in feature.splits.items() if look.coverage < _LEAST_COVERAGE}
    # Ids that validation does not know are a matter of the split, and told with it.
    if not scarce or (feature.kind == FeatureKind.SPARSE and "training" not in scarce):
        return None
    shown = ", ".join(f"{share:.2%} in {name}" for name, share in scarce.items())
    return DataFinding(
        feature.name,
        f"rows with a value of it: {shown}",
        "its column, or the key by which it is joined, is wrong or mostly empty",
        "mend its declaration, or leave it out",
    )


def _of_splits(splits: Sequence[SplitSummary]) -> Iterator[DataFinding]:
    for each in splits:
        if each.positives in (0, each.rows):
            yield DataFinding(
                each.split,
                f"all of its {each.rows:,} labels are {int(each.positives > 0)}",
                "nothing can be learnt from them or measured on them",
                "check the rule of the label, and the dates or values by which the rows are split",
            )
    for each in splits:
        for segment in each.segments:
            if not segment.rows:
                yield DataFinding(
                    segment.segment,
                    f"this user segment has no rows in {each.split}",
                    "its own parameters do not learn" if each.split == TRAIN else "it cannot be measured there",
                    "join it with another under `segments`, or check the rule that makes it",
                )
    for each in splits:
        if each.split == VALIDATION and each.unseen_user_share > _MOST_UNSEEN:
            yield DataFinding(
                each.split,
                f"{each.unseen_user_share:.1%} of its rows are of users that training does not know",
                "users hardly come back, or the split parts them; a user's own embedding is then of no use",
                "describe users by what they did (`history`), or split by time",
            )
