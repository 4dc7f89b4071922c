"""What the past had come to, carried on from midnight to midnight, stands for the events that it was made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from ibis.backends.duckdb import Backend

from recsys.datasets.database import load, temporary_database
from recsys.datasets.past import MOMENT, ROW, Opening, OpeningOutgrownError, PastFeature, add_past
from recsys.datasets.past.points import unique_name
from recsys.progress import silent
from tests.datasets.naive_past import DAY, Row
from tests.datasets.past_tables import EVENTS, FEATURES, SCHEMA, some_of, told

# Days on whose midnights the past is carried on; a window of the features reaches back three days at most.
_MIDNIGHTS = (1, 3)
_REACH = 3


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with temporary_database(Path(tmp_path_factory.mktemp("past")), "400MB", 1) as connection:
        yield connection


def _named(name: str) -> PastFeature:
    return next(one for one in FEATURES if one.name == name)


def _loaded(connection: Backend, rows: Sequence[Row]) -> ir.Table:
    return load(connection, unique_name(), pa.Table.from_pylist([*rows], SCHEMA))


def _carried_on(
    connection: Backend, path: Path, events: Sequence[Row], features: Sequence[PastFeature], before: Path | None
) -> None:
    opening = Opening.load(connection, before, is_continued=True) if before else Opening({}, is_continued=True)
    add_past(connection, _loaded(connection, []), _loaded(connection, events), features, silent, opening)
    path.unlink(missing_ok=True)
    opening.save(connection, path)


def _told_from(
    connection: Backend, path: Path, asked: Sequence[Row], events: Sequence[Row], features: Sequence[PastFeature]
) -> list[Row]:
    opening = Opening.load(connection, path, is_continued=False)
    since = _loaded(connection, events)
    found = add_past(connection, _loaded(connection, asked), since, features, silent, opening).order_by(ROW)
    rows = connection.con.sql(connection.compile(found)).to_arrow_table()
    return list(rows.select([one.name for one in features]).to_pylist())


def _since(events: Sequence[Row], first: int, end: int = 10**6) -> list[Row]:
    return [row for row in events if row[MOMENT] is not None and first * DAY <= row[MOMENT] < end * DAY]


@settings(max_examples=8, deadline=None)
@example([_named("first of two days"), _named("first")], [], [])
@example([_named("last items"), _named("affinity")], [], [])
@given(some_of(FEATURES), EVENTS, EVENTS)
def test_events_since_an_opening_tell_what_all_events_tell(
    tmp_path_factory: pytest.TempPathFactory,
    connection: Backend,
    features: list[PastFeature],
    events: list[Row],
    others: list[Row],
) -> None:
    folder = tmp_path_factory.mktemp("openings")
    first, second = _MIDNIGHTS
    _carried_on(connection, folder / "first", _since(events, -100, first), features, None)
    _carried_on(connection, folder / "second", _since(events, first, second), features, folder / "first")
    asked = _since([*events, *({**row, ROW: 100 + row[ROW]} for row in others)], second + _REACH)

    found = _told_from(connection, folder / "second", asked, _since(events, second), features)

    assert found == told(connection, asked, events, features)


def test_a_group_that_goes_on_after_weeks_asks_for_all_events(connection: Backend, tmp_path: Path) -> None:
    features = [one for one in FEATURES if one.name in ("last items", "affinity")]
    row = dict.fromkeys(SCHEMA.names) | {"recsys.past_contributes": True, "User": "a", 'the "item"': 1}
    old = [row | {ROW: 0, MOMENT: 0, "invoice": "i"}, row | {ROW: 1, MOMENT: 20 * DAY, "invoice": "j"}]
    again = row | {ROW: 2, MOMENT: 40 * DAY, "invoice": "i"}
    _carried_on(connection, tmp_path / "opening", old, features, None)

    with pytest.raises(OpeningOutgrownError, match="long ago"):
        _told_from(connection, tmp_path / "opening", [], [again], features)
