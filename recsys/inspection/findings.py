"""What a user should look at in prepared rows: labels that leak into features, empty features, segments and ids."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys.datasets.source import TRAIN, VALIDATION
from recsys.inspection.summaries import FeatureInSplit, FeatureSummary, SplitSummary

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
    judged = {name: look.auc for name, look in feature.splits.items() if _auc(look) is not None}
    if not any(value is not None and value > _LEAK_AUC for value in judged.values()):
        return None
    shown = ", ".join(f"{value:.3f} in {name}" for name, value in judged.items())
    return DataFinding(
        feature.name,
        f"by itself it separates the labels with an AUC of {shown}",
        "it is made of the label, or becomes known only after it",
        "check when its value is known; leave it out, or compute it from what lies before the row's time",
    )


def _better_in_training(feature: FeatureSummary) -> DataFinding | None:
    training, later = feature.training, feature.validation
    if later is None or (known := _auc(training)) is None or (held_out := _auc(later)) is None:
        return None
    gap, error = known - held_out, math.hypot(training.auc_error or 0, later.auc_error or 0)
    if gap <= _MOST_GAP or gap < _MOST_ERRORS * error:
        return None
    found = f"its AUC is {known:.3f} in training and {held_out:.3f} in validation (standard error {error:.3f})"
    if later.coverage < training.coverage / 2:
        return DataFinding(
            feature.name,
            f"{found}; its coverage {training.coverage:.1%} and {later.coverage:.1%}",
            "its values are met in training and hardly again, so that what is learnt of them is of no use later",
            "leave it out, or put in its place what is known of new values too",
        )
    return DataFinding(
        feature.name,
        found,
        "it was computed with the labels of the training rows, each row's own among them",
        "compute it from rows before the row's own time alone; if it is so already, its meaning changes with time",
    )


def _auc(look: FeatureInSplit) -> float | None:
    return look.auc if look.scarcer_rows >= _LEAST_ROWS else None


def _no_value(feature: FeatureSummary) -> DataFinding | None:
    if feature.is_constant:
        found = "it has one value alone in training"
        return DataFinding(
            feature.name, found, "nothing can be learnt from it", "leave it out, or mend where it is made"
        )
    scarce = {name: look.coverage for name, look in feature.splits.items() if look.coverage < _LEAST_COVERAGE}
    # Ids that validation does not know are a matter of the split, and told with it.
    if not scarce or (feature.kind == "sparse" and "training" not in scarce):
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
