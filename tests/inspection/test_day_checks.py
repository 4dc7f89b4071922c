"""Planted faults of a newest day are found, each by its own check and with its figure; clean days raise no alarm."""

import dataclasses
import datetime
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recsys.config.compose import compose_config
from recsys.config.daily_run import ChecksConfig
from recsys.inspection.check_results import CheckResult, Outcome
from recsys.inspection.day_checks import (
    NewestDay,
    drift_check,
    label_rate_check,
    null_share_check,
    rows_check,
    segment_mix_check,
    unseen_share_check,
)
from recsys.inspection.day_profiles import DayProfile, Share
from recsys.inspection.dense_drift import drifts, stability_index

NEWEST = datetime.date(2024, 5, 31)  # a Friday
SEGMENTS = ("new", "light", "heavy")
Columns = dict[str, npt.NDArray[Any]]
World = dict[datetime.date, Columns]


def world(seed: int, rows_per_day: int = 400, days: int = 40) -> World:
    """Days that vary by more than chance does: quieter at weekends, each with its own rates."""
    rng = np.random.default_rng(seed)
    found = {}
    for back in range(days):
        day = NEWEST - datetime.timedelta(days=back)
        rows = int(rng.poisson(rows_per_day * (0.6 if day.weekday() >= 5 else 1) * rng.lognormal(0, 0.1)))
        segments = rng.dirichlet([90, 60, 150])
        found[day] = {
            "label": rng.random(rows) < 0.2 * rng.lognormal(0, 0.08),
            "segment": rng.choice(3, rows, p=segments),
            "item_id": np.where(rng.random(rows) < 0.04 * rng.lognormal(0, 0.3), 0, 1 + rng.integers(50, size=rows)),
            "country": np.where(rng.random(rows) < 0.03, -1, 1 + rng.integers(5, size=rows)),
            "price": rng.lognormal(0.03 * rng.normal(), 1, rows).astype(np.float32),
            "age": rng.normal(0.03 * rng.normal(), 1, rows).astype(np.float32),
        }
    return found


def profile(day: datetime.date, columns: Columns) -> DayProfile:
    """Ids of 0 are unknown, those of -1 missing."""
    rows = len(columns["label"])
    ids = {name: columns[name] for name in ("item_id", "country")}
    is_training = day < NEWEST - datetime.timedelta(days=10)
    return DayProfile(
        day,
        rows,
        is_training,
        Share(int(columns["label"].sum()), rows),
        dict(zip(SEGMENTS, np.bincount(columns["segment"], minlength=3).tolist(), strict=True)),
        {name: Share(int((values == -1).sum()), rows) for name, values in ids.items()},
        {
            name: Share(0 if is_training else int((values == 0).sum()), int((values >= 0).sum()))
            for name, values in ids.items()
        },
    )


@cache
def limits() -> ChecksConfig:
    """Those that stand in `conf/`."""
    return compose_config(["data=simulated"]).daily.checks


def checks(rows: World, weeks: int = 4, newest: datetime.date = NEWEST) -> dict[str, CheckResult]:
    profiles = {day: profile(day, columns) for day, columns in rows.items() if len(columns["label"])}
    values = {day: {name: columns[name] for name in ("price", "age")} for day, columns in rows.items()}
    days = NewestDay.of(profiles, newest, weeks)
    found = (
        rows_check(days, limits().rows),
        null_share_check(days, limits().null_share),
        unseen_share_check(days, limits().unseen_share),
        label_rate_check(days, limits().label_rate, are_labels_sampled=False),
        segment_mix_check(days, limits().segment_mix),
        drift_check(days, values, limits().drift),
    )
    return {each.name: each for each in found}


def alarms(found: dict[str, CheckResult]) -> dict[str, str]:
    return {name: str(each.outcome) for name, each in found.items() if each.outcome is not Outcome.OK}


def kept(columns: Columns, which: npt.NDArray[Any]) -> Columns:
    return {name: values[which] for name, values in columns.items()}


def half_missing(columns: Columns) -> Columns:
    return kept(columns, np.arange(len(columns["label"])) % 2 == 0)


def column_null(columns: Columns) -> Columns:
    return columns | {"country": np.full_like(columns["country"], -1)}


def ids_renumbered(columns: Columns) -> Columns:
    return columns | {"item_id": np.zeros_like(columns["item_id"])}


def label_rate_doubled(columns: Columns) -> Columns:
    rows = len(columns["label"])
    return columns | {"label": np.random.default_rng(rows).random(rows) < 0.4}


def segment_vanished(columns: Columns) -> Columns:
    return kept(columns, columns["segment"] != 0)


def multiplied_by_10(columns: Columns) -> Columns:
    return columns | {"price": columns["price"] * 10}


@pytest.mark.parametrize(
    ("fault", "check", "outcome", "value", "subject"),
    [
        (half_missing, "rows", "warn", 0.5, ""),
        (column_null, "null_share", "fail", 0.97, "country"),
        (ids_renumbered, "unseen_share", "fail", 0.96, "item_id"),
        (label_rate_doubled, "label_rate", "warn", 0.5, ""),
        (segment_vanished, "segment_mix", "warn", 0.3, "new"),
        # Of a lognormal's deciles ten times as much fills the last one: 0.75 ln 8.5 of it, and 0.1 ln(0.1 / p) or so
        # of each that it leaves, with p at least that of one row in 400.
        (multiplied_by_10, "drift", "warn", 3.5, "price"),
    ],
)
def test_planted_fault_is_found_with_its_figure_and_nothing_else(
    fault: Callable[[Columns], Columns], check: str, outcome: str, value: float, subject: str
) -> None:
    rows = world(seed=0)
    found = checks(rows | {NEWEST: fault(rows[NEWEST])})

    assert alarms(found) == {check: outcome}
    assert found[check].value == pytest.approx(value, rel=0.15)
    assert found[check].subject == subject
    assert f"daily.checks.{check}.{outcome}" in found[check].sentence
    assert str(NEWEST) in found[check].sentence


def test_clean_weeks_raise_no_alarm() -> None:
    # With 20 rows a day 6 of 600 worlds raised one, with 100 rows 3 of 600, with 400 or 2,000 none of 900.
    seeds = [seed for seed in range(50) if alarms(checks(world(seed, rows_per_day=100)))]
    assert seeds == []


def test_day_that_stands_out_is_found_though_two_trailing_days_were_as_bad() -> None:
    rows = world(seed=1)
    bad = [NEWEST - datetime.timedelta(days=back) for back in (0, 1, 8)]
    found = checks(rows | {day: column_null(rows[day]) for day in bad})

    assert alarms(found) == {"null_share": "fail"}


def test_day_without_rows_fails_by_its_name() -> None:
    rows = world(seed=0)
    del rows[NEWEST]
    found = checks(rows)

    assert alarms(found) == {"rows": "fail"}
    assert found["rows"].sentence.startswith("0 rows for 2024-05-31, ")
    assert found["drift"].sentence == "Not judged: 0 rows on 2024-05-31."


def test_weekday_that_never_has_rows_may_have_none() -> None:
    rows = {day: columns for day, columns in world(seed=0).items() if day.weekday() != 4}

    assert alarms(checks(rows)) == {}


def test_day_off_with_rows_is_held_against_the_other_days() -> None:
    rows = {day: columns for day, columns in world(seed=0).items() if day.weekday() != 4 or day == NEWEST}
    found = checks(rows)

    assert alarms(found) == {}
    assert found["rows"].value == pytest.approx(0.1, abs=0.15)


def test_short_history_is_not_judged_but_an_empty_day_is() -> None:
    rows = world(seed=0, days=4)
    found = checks(rows)
    assert {each.sentence for each in found.values()} == {"Not judged: 3 days of history, 4 weeks wanted."}
    assert {each.value for each in found.values()} == {None}

    del rows[NEWEST]
    assert alarms(checks(rows)) == {"rows": "fail"}


def test_label_rate_of_drawn_negatives_is_not_judged() -> None:
    profiles = {day: profile(day, columns) for day, columns in world(seed=0).items()}
    days = NewestDay.of(profiles, NEWEST, weeks=4)
    found = label_rate_check(days, limits().label_rate, are_labels_sampled=True)

    assert (found.value, found.sentence) == (None, "Not judged: negatives are drawn, so many for each positive.")


def test_limit_of_null_is_never_reached() -> None:
    rows = world(seed=0)
    profiles = {day: profile(day, columns) for day, columns in rows.items() if day != NEWEST}
    days = NewestDay.of(profiles, NEWEST, weeks=4)
    found = rows_check(days, dataclasses.replace(limits().rows, warn=None, fail=None))

    assert (found.outcome, found.value) == (Outcome.OK, 1.0)


def test_stability_index_is_that_of_the_definition() -> None:
    # Shares after Laplace's rule: 2/4 and 2/4, 1/4 and 3/4.
    expected = (2 / 4 - 1 / 4) * np.log(2) + (2 / 4 - 3 / 4) * np.log((2 / 4) / (3 / 4))
    assert stability_index(np.array([1, 1]), np.array([0, 2])) == pytest.approx(expected)


def test_constant_feature_that_falls_or_rises_drifts() -> None:
    trailing = [np.zeros(100, np.float32)] * 28
    for moved in (-1, 1):
        value, usual = drifts(np.full(100, moved, np.float32), trailing)
        assert value > 5 > 0.1 > max(usual)
