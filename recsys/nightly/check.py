"""The checks before training: the newest day of the prepared rows beside the weeks before it, and its raw events.

Nothing is trained on a day that fails; a warning goes on with the run as a tag. All results, those that say nothing
too, are written to `checks.json` in the day's folder.
"""

import datetime
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.config import RunConfig, TableData
from recsys.datasets.database import temporary_database
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.newest_events import newest_events
from recsys.datasets.table_layout import TableLayout
from recsys.errors import DataError
from recsys.files import write_text_atomically
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
from recsys.inspection.day_profiles import day_profiles
from recsys.inspection.dense_drift import Values, dense_values
from recsys.inspection.raw_checks import duplicate_share_check, future_share_check
from recsys.progress import Progress
from recsys.run import prepare
from recsys.tracking import names

CHECKS = "checks.json"


@dataclass(frozen=True)
class CheckReport:
    """What the checks of one day found, in the order of `daily.checks`."""

    day: datetime.date
    results: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """A sentence for each check that failed."""
        return self._sentences(Outcome.FAIL)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each check that warns and lets the run go on."""
        return self._sentences(Outcome.WARN)

    def require_passed(self) -> None:
        """Stop before anything is trained.

        Raises:
            DataError: a check failed; holds the sentences of all that did.
        """
        if self.failed:
            raise DataError(
                f"The rows of {self.day} fail their checks, and nothing is trained. " + " ".join(self.failed)
            )

    def metrics(self) -> dict[str, float]:
        """The figure of every check that was judged, by its tracked name."""
        return {names.check(each.name): each.value for each in self.results if each.value is not None}

    def tags(self) -> dict[str, str]:
        """Which checks warn or failed, and of what, as the run's tag: `ok`, or such as `warn: rows, drift of price`."""
        found = [
            f"{outcome}: " + ", ".join(_shown(each) for each in self.results if each.outcome is outcome)
            for outcome in (Outcome.FAIL, Outcome.WARN)
            if self._sentences(outcome)
        ]
        return {names.TAG_CHECKS: "; ".join(found) or str(Outcome.OK)}

    def to_json(self) -> str:
        """Return all results, for people and programs."""
        document = {"day": self.day.isoformat(), "checks": [each.to_document() for each in self.results]}
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def _sentences(self, outcome: Outcome) -> tuple[str, ...]:
        return tuple(f"{each.name}: {each.sentence}" for each in self.results if each.outcome is outcome)


def run_checks(
    config: RunConfig,
    encoded: EncodedDataset,
    date: datetime.date,
    folder: Path,
    progress: Progress,
    now: datetime.datetime | None = None,
) -> CheckReport:
    """Check the day before `date`, the newest one of the run, and write what was found to `folder`.

    Args:
        config: of a table whose rows are split by dates.
        now: from when on times are future ones, with a zone; None: the machine's clock.

    Returns:
        The report, whether or not a check failed.

    Raises:
        DataError: a file is damaged or cannot be read; names it.
        CannotWriteError: `folder` cannot be written.
    """
    assert isinstance(config.data, TableData)
    limits, layout = config.daily.checks, prepare.table_layout(config.data)
    days = NewestDay.of(day_profiles(encoded), date - datetime.timedelta(days=1), limits.weeks)
    judged_days = [] if days.why_not else [day.day for day in (*days.with_rows, days.newest)]
    values = dense_values(encoded, judged_days, progress)
    calendar = _of_the_calendar(layout)
    results = (
        rows_check(days, limits.rows),
        label_rate_check(days, limits.label_rate, layout.label is None),
        null_share_check(days, limits.null_share),
        unseen_share_check(days, limits.unseen_share, calendar),
        segment_mix_check(days, limits.segment_mix),
        drift_check(days, {day: _without(found, calendar) for day, found in values.items()}, limits.drift),
        *_raw_checks(config, encoded, layout, days.newest.day, now or datetime.datetime.now(datetime.UTC), progress),
    )
    report = CheckReport(days.newest.day, results)
    write_text_atomically(folder / CHECKS, report.to_json())
    return report


def _of_the_calendar(layout: TableLayout) -> frozenset[str]:
    """Derived columns that read the time alone: what is new of them is the date."""
    assert layout.time is not None
    return frozenset(name for name, each in layout.expressions.items() if {*each.columns} == {layout.time.column})


def _without(values: Mapping[str, Values], names: Collection[str]) -> dict[str, Values]:
    return {name: each for name, each in values.items() if name not in names}


def _raw_checks(
    config: RunConfig,
    encoded: EncodedDataset,
    layout: TableLayout,
    day: datetime.date,
    now: datetime.datetime,
    progress: Progress,
) -> tuple[CheckResult, CheckResult]:
    limits, raw = config.daily.checks, prepare.raw_folder(config, progress)
    with (
        tempfile.TemporaryDirectory() as folder,
        temporary_database(Path(folder), config.runtime.memory_limit, config.runtime.cores) as connection,
    ):
        found = newest_events(connection, raw, layout, encoded.contract.schema, day, now, progress)
    return (
        duplicate_share_check(day, found.events, found.duplicates, found.where, limits.duplicate_share),
        future_share_check(day, found.events, found.future, found.newest, now, found.where, limits.future_share),
    )


def _shown(result: CheckResult) -> str:
    return f"{result.name} of {result.subject}" if result.subject else result.name
