"""The days that a scheduled run learns from and is measured on, and its configuration with them."""

import dataclasses
import datetime

from recsys.config import RunConfig, TableData
from recsys.errors import UsageError
from recsys.run import prepare
from recsys.scheduling.window import Window, window_before


def window_of(
    config: RunConfig, date: datetime.date, *, is_warm: bool = False, first: datetime.date | None = None
) -> Window:
    """Return the window before `date`.

    Args:
        is_warm: whether the run starts from the champion's weights, and so learns from the newest `warm_days` alone.
        first: the data's first day, from which a growing window begins unless the schema says `train_start`.

    Raises:
        UsageError: the source's splits cannot be moved to a date, or the window has no training day.
    """
    if reason := _why_undated(config):
        data = config.data
        raise UsageError(
            f"A scheduled run moves the splits' dates, and `{data.name}` (source `{data.source}`) has none to move: "
            f"{reason}, or train on each day's rows with `recsys train`."
        )
    daily = config.daily
    held_out = daily.validation_days + daily.test_days
    days = daily.train_days
    if days is None:
        begin = _declared_start(config) or first
        days = max((date - begin).days - held_out, 1) if begin else 1
    if is_warm:
        days = min(days, daily.warm_days)
    return window_before(date, train_days=days, validation_days=daily.validation_days, test_days=daily.test_days)


def dated(config: RunConfig, window: Window) -> RunConfig:
    """Return the run with the window's days as its splits."""
    assert isinstance(config.data, TableData)
    data = dataclasses.replace(
        config.data,
        train_start=window.train.first.isoformat(),
        validation_start=window.validation.first.isoformat(),
        test_start=window.test.first.isoformat(),
        test_end=window.test.end.isoformat(),
    )
    return dataclasses.replace(config, data=data)


def _declared_start(config: RunConfig) -> datetime.date | None:
    assert isinstance(config.data, TableData)
    splits = prepare.table_layout(config.data).splits
    return splits.train_start.date() if splits and splits.train_start else None


def _why_undated(config: RunConfig) -> str:
    """Why the data's splits have no dates, and what to use instead; empty where they have some."""
    data = config.data
    if not isinstance(data, TableData):
        return "a simulated world is split by its own days. Use rows of your own, with data=table"
    layout = prepare.table_layout(data)
    if layout.time is None:
        return f"the `table:` block of {data.schema_path} declares no `time`. Declare it if the rows have one"
    if prepare.is_split_by_time(layout):
        return ""
    how = "by files" if layout.splits is None else "by a column" if layout.splits.column else "in another way"
    return (
        f"the `table:` block of {data.schema_path} splits the rows {how}. Declare `splits: {{validation_start: ..., "
        "test_start: ...}` there"
    )
