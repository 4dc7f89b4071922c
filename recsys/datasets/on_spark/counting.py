"""Features of the past counted on Spark for rows of DuckDB, as `recsys.datasets.past.add_past` counts them there."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.computed_features import name_of_own
from recsys.datasets.on_spark.exchange import hand_over, take_up
from recsys.datasets.on_spark.spark_engine import SparkEngine, SparkSettings, spark_session
from recsys.datasets.past import (
    AGE,
    AGE_DAYS,
    CONTRIBUTES,
    LABEL,
    MOMENT,
    NOTHING_BEFORE,
    ROW,
    UNIT,
    Opening,
    PastCounter,
    PastFeature,
)
from recsys.datasets.past.engine import joined_past, summed_columns
from recsys.datasets.past.past_feature import FOLD_HASH
from recsys.datasets.past.points import fold_hash, unique_name
from recsys.datasets.past.quantities import exact, exact_name, require_summable
from recsys.progress import Progress


@contextmanager
def past_on_spark(settings: SparkSettings, folder: Path) -> Iterator[PastCounter]:
    """Yield what counts features of the past on Spark; what it returns outlasts Spark, as long as `folder` does.

    Args:
        folder: for tables on their way, on a disk that every machine of Spark sees.

    Raises:
        UsageError, ServiceError: see `spark_session`.
    """
    with spark_session(settings, folder) as session:
        yield _SparkCounter(session, folder)


class _SparkCounter:
    def __init__(self, session: Any, folder: Path) -> None:
        self._session, self._folder = session, folder

    def __call__(
        self,
        connection: Backend,
        asked: ir.Table,
        events: ir.Table,
        features: Sequence[PastFeature],
        progress: Progress,
        opening: Opening = NOTHING_BEFORE,
    ) -> ir.Table:
        """See `add_past`."""
        # Days that go on from others are refused where they are asked for.
        assert opening is NOTHING_BEFORE
        summed = summed_columns(features)
        require_summable(connection, events, summed)
        name = unique_name()
        folder = self._folder / name
        folder.mkdir()
        progress("handing over to Spark", 0, 0)
        tables = {"asked": _asked(asked, features), "events": _events(events, features, summed)}
        for each, table in tables.items():
            shown = {column: name_of_own(column) for column in table.columns}
            hand_over(connection, table, folder / f"{each}.parquet", shown)
        engine = SparkEngine(self._session, folder)
        rows, happened = (engine.read(unique_name(), folder / f"{each}.parquet") for each in tables)
        past = joined_past(engine, rows, happened, features, progress)
        found = self._folder / f"{name}_found"
        engine.write(past.found, found)
        shutil.rmtree(folder)
        return past.of_other_engine(asked, take_up(connection, name, found), events).with_features(features)


def _asked(asked: ir.Table, features: Sequence[PastFeature]) -> ir.Table:
    """What the past of the rows is chosen by."""
    keys = dict.fromkeys(name for one in features for name in one.by)
    return asked.select(*keys, **_common(asked, asked[ROW]))


def _events(events: ir.Table, features: Sequence[PastFeature], summed: set[str]) -> ir.Table:
    """What is counted, and by what."""
    names = (name for one in features for name in (*one.by, one.of, one.beside))
    columns = dict.fromkeys(name for name in names if name and name not in (AGE, AGE_DAYS, LABEL))
    more: Mapping[str, ir.Value] = {LABEL: events[LABEL]} if LABEL in events.columns else {}
    made = {exact_name(name): exact(events[name]).cast("decimal(38, 0)") for name in summed}
    row = {name: events[name] for name in (ROW,) if name in events.columns}
    return events.select(*columns, **more, **made, **_common(events, row.get(ROW)))


def _common(rows: ir.Table, row: ir.Value | None) -> dict[str, ir.Value]:
    found = {name: rows[name] for name in (MOMENT, CONTRIBUTES) if name in rows.columns}
    if UNIT in rows.columns:
        found[FOLD_HASH] = fold_hash(rows)
    return found | ({} if row is None else {ROW: row.cast("int64")})
