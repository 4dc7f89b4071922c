"""May the challenger take the champion's place?

Only if it is better or equivalent over all rows, in no user segment clearly worse by more than a margin, calibrated,
served as it was trained, and on a tower within its limit of drift.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AucDifference:
    """Challenger minus champion in a metric where higher is better, with a paired bootstrap's 95 % interval.

    Both are scored on the same rows and resampled together: their difference varies far less than either score.
    """

    value: float
    low: float
    high: float

    @property
    def is_measured(self) -> bool:
        """False where the metric is undefined, as an AUC over one class is."""
        return all(map(math.isfinite, (self.value, self.low, self.high)))

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


UNMEASURED = AucDifference(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class PromotionLimits:
    """What a challenger must keep to.

    Attributes:
        margin: an interval that lies within it, either way, counts as equivalent; above 0, in the metric's unit.
        segment_margin: the loss that a segment may take, likewise.
        max_calibration_error: see `PromotionEvidence.calibration_error`.
    """

    margin: float
    segment_margin: float
    max_calibration_error: float


@dataclass(frozen=True)
class PromotionEvidence:
    """What was found of a challenger on the newest rows, which neither model was trained on.

    Attributes:
        has_champion: without one there are no differences.
        overall, by_segment: challenger minus champion.
        calibration_error: the challenger's expected calibration error (`recsys.metrics.calibration`): the mean gap
            between predicted and observed in bins of equal weight; None where it is undefined.
        drift_fault: by how much its tower moved too far, see `training_mode.max_drift`; empty where it did not, or
            where there is no limit.
        golden_fault: why its served model, loaded in a fresh process, did not score the golden rows as the ranker did
            in training; empty where it did.
    """

    has_champion: bool
    overall: AucDifference
    by_segment: Mapping[str, AucDifference]
    calibration_error: float | None
    drift_fault: str
    golden_fault: str


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes over, and one sentence for each reason."""

    promote: bool
    reasons: tuple[str, ...]


def decide(evidence: PromotionEvidence, limits: PromotionLimits) -> Decision:
    """Say whether the challenger takes the champion's place.

    Over all rows it must be better by more than its noise (interval above 0) or equivalent (interval within the
    margin): of two that are as good, the one that knows the newer days stays good for longer.

    A segment stands in the way when the challenger is worse there by more than the margin and its interval excludes 0.
    Asking for less than both would let the noise of a small segment, or a real but tiny loss, decide for all. The
    intervals are not widened for the number of segments: with S of them a challenger that is as good everywhere is
    refused by chance in at most 2.5 S % of nights, which costs one night, while a wider interval would let harm pass.
    A segment that reads worse within its noise is named and does not decide.

    Source: non-inferiority and equivalence by intervals, as in Schuirmann, "A comparison of the two one-sided tests
    procedure and the power approach" (1987).
    """
    findings = [*_on_all_rows(evidence, limits), *_by_segment(evidence, limits)]
    findings += [_on_calibration(evidence.calibration_error, limits.max_calibration_error)]
    findings += _on_drift(evidence.drift_fault)
    findings += [_on_golden_rows(evidence.golden_fault)]
    return Decision(not any(is_in_the_way for is_in_the_way, _ in findings), tuple(reason for _, reason in findings))


# Whether it stands in the way, and the reason.
_Finding = tuple[bool, str]


def _on_all_rows(evidence: PromotionEvidence, limits: PromotionLimits) -> Iterator[_Finding]:
    overall, margin = evidence.overall, limits.margin
    if not evidence.has_champion:
        yield False, "There was no champion yet."
    elif not overall.is_measured:
        yield True, "Over all rows the difference could not be measured, so the champion stays."
    elif overall.low > 0:
        yield False, f"Over all rows the challenger is better by more than its noise: {overall}."
    elif -margin < overall.low and overall.high < margin:
        yield False, f"Over all rows the challenger is equivalent, within {margin:g} either way: {overall}."
    elif overall.high < 0:
        yield True, f"Over all rows the challenger is worse by more than its noise: {overall}."
    else:
        yield True, f"Over all rows the challenger is neither better nor equivalent (within {margin:g}): {overall}."


def _by_segment(evidence: PromotionEvidence, limits: PromotionLimits) -> Iterator[_Finding]:
    margin = limits.segment_margin
    for segment, difference in evidence.by_segment.items():
        if not difference.is_measured:
            yield False, f"Segment `{segment}` could not be measured and did not decide."
        elif difference.value < -margin and difference.high < 0:
            yield True, f"Segment `{segment}` is worse by more than the margin {margin:g}: {difference}."
        elif difference.value < -margin:
            yield False, f"Segment `{segment}` reads worse, but within its noise: {difference}."


def _on_calibration(error: float | None, limit: float) -> _Finding:
    if error is None:
        return True, "The challenger's calibration error could not be measured."
    if error > limit:
        return True, f"The challenger's calibration error is {error:.4f}, above {limit:g}."
    return False, f"The challenger's calibration error is {error:.4f}, at most {limit:g}."


def _on_drift(fault: str) -> Iterator[_Finding]:
    if fault:
        yield True, f"Other models would have to share a tower that moved too far: {fault}"


def _on_golden_rows(fault: str) -> _Finding:
    if fault:
        return True, f"The served model failed on the golden rows in a fresh process: {fault}"
    return False, "The served model scores the golden rows in a fresh process as the ranker did."
