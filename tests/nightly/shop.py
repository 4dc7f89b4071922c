"""A shop of three weeks for nightly runs that take seconds, and the same by Online Retail's way of rows."""

import datetime
from pathlib import Path
from typing import Any

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.nightly.nightly_log import NightlyEvent, NightlyLog
from recsys.nightly.places import NightlyRoot
from tests.pipelines.own_table import PRETRAIN, OwnTable

FIRST = datetime.datetime(2024, 3, 1)
MONDAY = datetime.date(2024, 3, 18)
"""The first date that has a whole window before it."""


class NightlyShop:
    """The table of `OwnTable` with a feature of the past, its nights, and what they left."""

    def __init__(self, root: Path) -> None:
        self.table = OwnTable(root)
        feature = {"name": "item_clicks", "kind": "dense", "scale": "log", "used_by": ["interaction_network"]}
        self.table.schema["features"].append(feature)
        self.table.schema["table"]["history"] = {
            "scope": "live",
            "features": {"item_clicks": {"kind": "count", "by": ["item_id"]}},
        }
        self.table.write()

    @property
    def words(self) -> list[str]:
        """Overrides of its nights, in which every challenger counts as equivalent."""
        return [
            *self.table.words,
            *PRETRAIN,
            "data.name=shop",
            "ablation.resamples=20",
            "daily.train_days=10",
            "daily.warm_days=5",
            "daily.validation_days=2",
            "daily.test_days=2",
            "daily.promotion.margin=1",
            "daily.promotion.segment_margin=1",
            "daily.promotion.max_calibration_error=1",
        ]

    def config(self, *more: str) -> RunConfig:
        """Its configuration."""
        return compose_config([*self.words, *more])

    @property
    def root(self) -> NightlyRoot:
        """Where its nights are kept."""
        return NightlyRoot.of(self.config())

    def events(self) -> list[NightlyEvent]:
        """Everything that was logged."""
        return [*NightlyLog(self.root.log).events()]

    def add_late_row(self, day: datetime.date, hour: int = 23) -> None:
        """A click of a day that is done arrives in a file of its own."""
        self.table.schema["table"]["files"] = ["clicks*.parquet"]
        columns: dict[str, Any] = {name: values[:1] for name, values in self.table.columns.items()}
        columns["when"] = [datetime.datetime.combine(day, datetime.time(hour))]
        self.table.write()
        self.table.write_rows(f"clicks-late-{day}.parquet", columns)

    def without_day(self, day: datetime.date) -> None:
        """All clicks of a day are lost."""
        keep = [number for number, when in enumerate(self.table.columns["when"]) if when.date() != day]
        self.table.columns = {name: [values[n] for n in keep] for name, values in self.table.columns.items()}
        self.table.write()
