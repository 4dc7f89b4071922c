"""Preparing day by day leaves what preparing everything leaves, and reads no more than the days that changed."""

import datetime
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.config import RunConfig, TableData
from recsys.config.compose import compose_config
from recsys.datasets.dated_rows import days_back
from recsys.datasets.table_layout import TableLayout
from recsys.errors import DataError, UsageError
from recsys.features.schema import FeatureSchema
from recsys.progress import silent
from recsys.run import prepare, prepare_daily
from tests.pipelines.day_by_day import DAY, FIRST, Row, bytes_of, config_of, document, some_rows, write_days

END = FIRST + 16 * DAY


def _before(rows: list[Row], end: datetime.date) -> list[Row]:
    return [row for row in rows if row["at"].date() < end]


def _said(labels: list[str]) -> Callable[[str, int, int], None]:
    return lambda label, done, total: labels.append(label)


# Late rows of a day that the last opening already held, and of the day that the next one takes up.
@pytest.mark.parametrize(
    ("kind", "past", "late"),
    [
        ("choices", ("again_share", "user_items", "item_then", "affinity"), 2),
        ("labelled", ("user_rows", "cheapest_2d", "recent", "item_age"), 0),
    ],
)
def test_days_that_come_one_by_one_and_late_rows_leave_what_a_preparation_from_scratch_leaves(
    kind: str, past: tuple[str, ...], late: int, tmp_path: Path
) -> None:
    schema, raw = document(kind, past), tmp_path / "raw"
    rows = some_rows(16, seed=3, per_day=6)
    first = config_of(tmp_path, schema, END - DAY)
    write_days(raw, _before(rows, END - DAY))
    prepare_daily.run(first, silent)
    known = prepare_daily.day_fingerprints(first, silent)
    (opening,) = (tmp_path / "encoded").glob("shop-openings-*/2026-*")
    day = datetime.date.fromisoformat(opening.name[:10]) if late else FIRST
    more = [
        row | {"invoice": f"late{number}", "at": row["at"].replace(year=day.year, month=day.month, day=day.day)}
        for number, row in enumerate(rows[:3])
    ]

    write_days(raw, [*rows, *more])
    config = config_of(tmp_path, schema, END)
    now = prepare_daily.day_fingerprints(config, silent)
    assert [each for each in known if now[each] != known[each]] == [day]
    daily = bytes_of(prepare_daily.run(config, silent).root)

    assert len([*(tmp_path / "encoded").glob("shop-openings-*/2026-*")]) == 2
    assert daily == bytes_of(prepare_daily.run(config_of(tmp_path, schema, END, "scratch"), silent).root)
    whole = bytes_of(prepare.run(config_of(tmp_path, schema, END, "whole"), silent).root)
    # The receipt alone names days in place of files.
    assert {name for name in whole.keys() | daily.keys() if whole.get(name) != daily.get(name)} == {"manifest.json"}


def test_an_opening_is_carried_over_a_day_on_which_nothing_was_kept(tmp_path: Path) -> None:
    schema, (rows, end) = document("choices", ("user_rows",)), (some_rows(16, seed=3, per_day=6), END - DAY)
    # The window of the last day begins seven days before it, and single events are looked at seven days before that.
    quiet = [row | {"price": 0.5} if row["at"].date() == END - 15 * DAY else row for row in rows]
    write_days(tmp_path / "raw", _before(quiet, end))
    prepare_daily.run(config_of(tmp_path, schema, end), silent)
    write_days(tmp_path / "raw", quiet)
    labels: list[str] = []
    daily = bytes_of(prepare_daily.run(config_of(tmp_path, schema, END), _said(labels)).root)

    whole = bytes_of(prepare.run(config_of(tmp_path, schema, END, "whole"), silent).root)
    assert len([*(tmp_path / "encoded").glob("shop-openings-*/2026-*")]) == 2
    assert {name for name in whole.keys() | daily.keys() if whole.get(name) != daily.get(name)} == {"manifest.json"}


def test_rows_from_the_end_of_a_window_on_change_nothing(tmp_path: Path) -> None:
    schema, rows = document("labelled", ("recent",)), some_rows(12, seed=1)
    config = config_of(tmp_path, schema, FIRST + 10 * DAY)
    write_days(tmp_path / "raw", _before(rows, FIRST + 10 * DAY))
    before = prepare_daily.run(config, silent)
    write_days(tmp_path / "raw", rows)

    labels: list[str] = []
    assert prepare_daily.run(config, _said(labels)).root == before.root
    assert "fit" not in labels


def test_a_copy_of_a_file_is_refused_on_whichever_day_it_comes(tmp_path: Path) -> None:
    config = config_of(tmp_path, document("labelled", ("recent",)), END)
    write_days(tmp_path / "raw", some_rows(5, seed=1))
    prepare_daily.day_fingerprints(config, silent)
    original, *_ = sorted((tmp_path / "raw").iterdir())
    shutil.copy(original, tmp_path / "raw" / "copy.parquet")

    with pytest.raises(DataError, match="same bytes"):
        prepare_daily.day_fingerprints(config, silent)


def test_ids_that_turn_out_to_be_text_are_read_as_text_from_the_first_day_on(tmp_path: Path) -> None:
    config = config_of(tmp_path, document("labelled", ("recent",), files="*.csv"), END)
    (tmp_path / "raw").mkdir()
    lines = {"1": "2026-01-01,1,7,2.0,1,x", "2": "2026-01-02,1,A7,2.0,0,x"}
    found = []
    for name, line in lines.items():
        (tmp_path / "raw" / f"{name}.csv").write_text(f"at,user_id,sku,price,bought,invoice\n{line}\n")
        found.append(prepare_daily.day_fingerprints(config, silent))

    assert [*found[1]] == [FIRST, FIRST + DAY]
    assert found[0][FIRST] != found[1][FIRST]


def test_a_window_without_an_end_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, document("labelled"), END)
    assert isinstance(config.data, TableData)
    endless = replace(config, data=replace(config.data, test_end=None))
    with pytest.raises(UsageError, match="test_end"):
        prepare_daily.run(endless, silent)


def test_a_made_up_data_set_has_no_days_to_add() -> None:
    config: RunConfig = compose_config([])
    with pytest.raises(UsageError, match="made up whole"):
        prepare_daily.day_fingerprints(config, silent)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # The longest span, the five days of the candidates, and two more.
        ({}, 7),
        ({"candidates": {"within": "9d"}}, 11),
        ({"merge": {"by": ["invoice", "sku"], "keep": {"at": "min", "price": "max", "user_id": "max"}}}, "merged"),
    ],
)
def test_how_far_back_single_events_are_read(table: dict[str, object], expected: int | str) -> None:
    text = document("choices", ("item_then", "user_items"), **table)
    schema = FeatureSchema.from_document(text)
    found = days_back(TableLayout.from_document(text, schema), schema)
    assert found == expected if isinstance(expected, int) else expected in str(found)
