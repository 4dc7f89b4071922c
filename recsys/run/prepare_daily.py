"""Rows of a window that moves with the days, prepared in a time that does not grow with the history.

A new day costs its own files, a step of the past's opening (see `recsys.datasets.dated_rows`), and the window. The
result is, byte for byte, that of reading all days before the window's end.
"""

import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recsys.config import RunConfig, TableData, config_document
from recsys.datasets.dated_rows import (
    OPENING_NAME,
    DatedSource,
    columns_of_the_past,
    days_back,
    write_opening,
)
from recsys.datasets.day_files import DayFiles, gathered
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.past import OpeningOutgrownError
from recsys.datasets.table_files import find_files
from recsys.datasets.table_layout import TableLayout
from recsys.errors import UsageError
from recsys.features.known_fit import KnownFit
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import load_schema
from recsys.files import fingerprint_of
from recsys.progress import Progress
from recsys.run import prepare
from recsys.run.result_keys import code_of
from recsys.scheduling.stage import Stage, is_up_to_date, run_stage

_ROWS = "rows"
# Newer ones serve the next days, and the first of each month what comes late; the others are made again when needed.
_NEWEST_OPENINGS, _MONTHLY_OPENINGS = 14, 24


def run(config: RunConfig, progress: Progress, known: KnownFit | None = None) -> EncodedDataset:
    """Prepare the window that the dates of `config.data` name, or find it prepared already.

    Events from `data.test_end` on are as if they stood in no file.

    Args:
        known: see `encode`.

    Raises:
        UsageError: the data are no table that is split by dates, or `data.test_end` is not set.
        DataError: the raw data are missing or break the schema.
        CannotWriteError: `runtime.encoded` cannot be written.
        BusyError: another process prepares the same window now.
    """
    window = _Window(config, progress, known)
    final, stage = window.final, window.stage

    def work(folder: Path) -> None:
        # A preparation that was killed may have had only its receipt left to write.
        if not (folder / _ROWS).exists():
            window.encode(folder / _ROWS)

    result = run_stage(stage, final, work, is_resumable=True)
    encoded = open_encoded(result.path / _ROWS)
    prepare.require_intact(encoded, result.was_run, progress)
    return encoded


def day_fingerprints(config: RunConfig, progress: Progress) -> dict[datetime.date, str]:
    """Return a fingerprint of the raw rows of each UTC day; files that did not change are not read.

    Raises:
        UsageError, DataError, CannotWriteError: see `run`.
    """
    return dict(_Declared(config, progress).days.fingerprints)


def _table(config: RunConfig) -> TableData:
    if not isinstance(config.data, TableData):
        raise UsageError(
            f"The data set `{config.data.name}` is made up whole, and no day is added to it. Choose a table of events "
            "with times, such as data=online_retail."
        )
    if config.data.engine != "duckdb":
        raise UsageError(
            f"data.engine={config.data.engine} counts whole tables, and days that go on from where the last ones ended "
            "are counted on DuckDB. Set data.engine=duckdb."
        )
    return config.data


def _without_dates(data: TableData) -> dict[str, Any]:
    """What the schema file declares, but for the dates that the rows are split by."""
    document = read_plain_yaml(prepare.schema_file(data), "Schema file")
    table = {key: value for key, value in document["table"].items() if key != "splits"}
    # As plain values, as dates are to be compared and written down.
    return dict(json.loads(json.dumps({**document, "table": table}, default=str)))


class _Declared:
    """What the schema file declares, read once, and the days of the rows that it speaks of."""

    def __init__(self, config: RunConfig, progress: Progress) -> None:
        self.data = _table(config)
        self.schema = load_schema(prepare.schema_file(self.data))
        self.layout = prepare.table_layout(self.data)
        self.dateless = _without_dates(self.data)
        self.raw = prepare.raw_folder(config, progress)
        key = fingerprint_of([self.dateless, str(self.raw.resolve()), code_of(gathered)])
        self.days: DayFiles = gathered(
            config.runtime.encoded / f"{self.data.name}-days-{key}",
            self.raw,
            self.layout,
            self.schema,
            memory_limit=config.runtime.memory_limit,
            threads=config.runtime.cores,
            progress=progress,
        )


class _Window:
    """One window: where its rows come from and where they go."""

    def __init__(self, config: RunConfig, progress: Progress, known: KnownFit | None) -> None:
        end = _table(config).test_end
        if end is None:
            raise UsageError("`data.test_end` is not set; a window that moves with the days ends with a date.")
        self._config, self._progress, self._known = config, progress, known
        self._end = datetime.date.fromisoformat(end)
        self._declared = declared = _Declared(config, progress)
        self._schema, self._layout, self._raw, self._days = (
            declared.schema,
            declared.layout,
            declared.raw,
            declared.days,
        )

    @property
    def final(self) -> Path:
        """The folder of the prepared rows."""
        return self._below(f"{self._config.data.name}-{self.stage.key}")

    @cached_property
    def stage(self) -> Stage:
        """What the prepared rows follow from: the rows of the days before its end, and no later ones."""
        settings = config_document(self._config)["data"]
        return Stage(
            "prepare",
            inputs={
                "days": self._fingerprint_before(self._end),
                "schema": prepare.fingerprint_of_schema(prepare.schema_file(self._config.data)),
                **self._sides(self._layout),
                **({"known": self._known.fingerprint} if self._known else {}),
            },
            parameters={key: value for key, value in settings.items() if key not in prepare.NO_EFFECT_ON_ROWS},
            code_version=code_of(load_schema, encode, DatedSource),
        )

    def encode(self, target: Path) -> None:
        """Prepare the rows from the newest opening that serves, else from all days."""
        source = DatedSource(self._days, self._raw, self._layout, self._end)
        if (since := self._first_day_read()) is not None and (opening := self._opening(since)) is not None:
            try:
                self._encode(replace(source, since=since, opening=opening), target)
            except OpeningOutgrownError as reason:
                self._progress(f"reading all days, as {reason}", 0, 0)
            else:
                return
        self._encode(source, target)

    def _encode(self, source: DatedSource, target: Path) -> None:
        encode(
            source,
            self._schema,
            target,
            memory_limit=self._config.runtime.memory_limit,
            threads=self._config.runtime.cores,
            resume_key=self.stage.key,
            progress=self._progress,
            known=self._known,
        )

    def _first_day_read(self) -> datetime.date | None:
        """The first day whose events are read one by one; None where it is the first day of all."""
        back, start = days_back(self._layout, self._schema), self._layout.splits and self._layout.splits.train_start
        if isinstance(back, str) or not start:
            return None
        since = start.date() - datetime.timedelta(days=back)
        return since if any(day < since for day in self._days.fingerprints) else None

    def _opening(self, since: datetime.date) -> Path:
        """The opening of a day, made of the newest one before it where there is none yet."""
        stage, final = self._opening_stage(since)
        if is_up_to_date(stage, final):
            return final
        earlier = self._newest_opening(since)
        source = DatedSource(self._days, self._raw, self._layout, since)

        def write(source: DatedSource, folder: Path) -> None:
            write_opening(
                source,
                self._schema,
                folder,
                memory_limit=self._config.runtime.memory_limit,
                threads=self._config.runtime.cores,
                progress=self._progress,
            )

        def work(folder: Path) -> None:
            if earlier:
                try:
                    write(replace(source, since=earlier[0], opening=earlier[1]), folder)
                except OpeningOutgrownError as reason:
                    self._progress(f"reading all days, as {reason}", 0, 0)
                else:
                    return
            write(source, folder)

        path = run_stage(stage, final, work).path
        self._remove_old_openings()
        return path

    def _opening_stage(self, day: datetime.date) -> tuple[Stage, Path]:
        """What an opening follows from, whatever the window: names its folder too."""
        columns = columns_of_the_past(self._layout, self._schema)
        tables = {
            name: rule
            for name, rule in self._layout.tables.items()
            # Without names all columns come, whatever they are.
            if not rule.columns or columns.intersection(rule.columns)
        }
        stage = Stage(
            "opening",
            inputs={"days": self._fingerprint_before(day), **self._sides(replace(self._layout, tables=tables))},
            parameters={"schema": self._declared.dateless, "day": day.isoformat()},
            code_version=code_of(load_schema, write_opening),
        )
        return stage, self._openings / f"{day.isoformat()}-{stage.key}"

    def _newest_opening(self, before: datetime.date) -> tuple[datetime.date, Path] | None:
        for day, path in sorted(self._opening_folders(), reverse=True):
            if day < before:
                stage, final = self._opening_stage(day)
                if path == final and is_up_to_date(stage, final):
                    return day, path
        return None

    def _opening_folders(self) -> list[tuple[datetime.date, Path]]:
        return [
            (datetime.date.fromisoformat(receipt.parent.name[:10]), receipt.parent)
            for receipt in self._openings.glob(f"[0-9]*/{OPENING_NAME}")
        ]

    def _remove_old_openings(self) -> None:
        newest_first = sorted(self._opening_folders(), reverse=True)
        months = dict[str, Path]()
        for day, path in reversed(newest_first):
            months.setdefault(f"{day:%Y-%m}", path)
        kept = {path for _, path in newest_first[:_NEWEST_OPENINGS]} | {*[*months.values()][-_MONTHLY_OPENINGS:]}
        for _, path in newest_first:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _openings(self) -> Path:
        return self._days.folder.with_name(self._days.folder.name.replace("-days-", "-openings-"))

    def _below(self, name: str) -> Path:
        return self._config.runtime.encoded / name

    def _fingerprint_before(self, end: datetime.date) -> str:
        return fingerprint_of([[str(day), found] for day, found in self._days.fingerprints.items() if day < end])

    def _sides(self, layout: TableLayout) -> Mapping[str, str]:
        """The digests of the files beside the events."""
        found = {
            file.name: file.sha256
            for rule in layout.tables.values()
            if rule.files
            for file in find_files(self._raw, {"": rule.files}, self._progress, self._days.digest)
        }
        vectors = layout.segment.vectors
        return {**found, vectors: self._days.digest(self._raw / vectors)} if vectors else found
