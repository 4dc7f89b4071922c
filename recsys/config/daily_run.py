"""A scheduled run's knobs: its window, where it starts from, what it asks of data and models, whom it tells."""

from typing import Literal

from recsys.config.knobs import (
    Days,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    checked_dataclass,
)

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


@checked_dataclass
class CheckLimits:
    """Above which figure a check warns, and above which the run stops before training; null never."""

    warn: NonNegativeFloat | None
    fail: NonNegativeFloat | None

    def __post_init__(self) -> None:
        """Refuse limits of which the milder one would never be told."""
        if self.warn is not None and self.fail is not None and self.warn > self.fail:
            raise ValueError(f"`warn` is {self.warn:g} and `fail` is {self.fail:g}; expected warn <= fail, or null")


@checked_dataclass
class ChecksConfig:
    """What the newest day's rows must look like beside those of the weeks before; see `recsys.inspection.day_checks`.

    Attributes:
        weeks: how many trailing weeks the newest day is held against.
    """

    weeks: PositiveInt
    rows: CheckLimits
    label_rate: CheckLimits
    null_share: CheckLimits
    unseen_share: CheckLimits
    segment_mix: CheckLimits
    drift: CheckLimits
    duplicate_share: CheckLimits
    future_share: CheckLimits


@checked_dataclass
class PromotionConfig:
    """When a challenger takes the champion's place: differences are of AUC, challenger minus champion."""

    margin: PositiveFloat
    segment_margin: PositiveFloat
    max_calibration_error: Fraction
    golden_rows: PositiveInt


@checked_dataclass
class DailyStudyConfig:
    """The weekday on whose runs the study of `ablation` is done as well; null never."""

    weekday: Weekday | None


@checked_dataclass
class HooksConfig:
    """Whom a scheduled run tells: a shell command that gets the event as JSON on standard input, or an http address."""

    failure: str | None
    promotion: str | None
    verdict: str | None


@checked_dataclass
class DailyConfig:
    """A scheduled run's window, the days before its date, the last of them held out for validation and test.

    Attributes:
        train_days: of a run that starts from scratch; null for a window that grows from the data's first day.
        start: from the champion's weights, on the newest `warm_days` of the window, or from scratch every time.
        warm_rate: share of the configured learning rates that a run takes which starts from the champion.
    """

    train_days: Days | None
    validation_days: Days
    test_days: Days
    start: Literal["champion", "scratch"]
    warm_days: Days
    warm_rate: PositiveFloat
    checks: ChecksConfig
    promotion: PromotionConfig
    study: DailyStudyConfig
    hooks: HooksConfig
