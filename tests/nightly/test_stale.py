"""Late rows make the run over them stale, and the runs that started from its model."""

import datetime
from pathlib import Path

from recsys.nightly.places import NightlyRoot
from recsys.nightly.stale import stale_dates
from recsys.scheduling.window import window_before

DAYS = {datetime.date(2011, 8, 1) + datetime.timedelta(days=number): f"rows of {number}" for number in range(40)}


def done(root: NightlyRoot, date: datetime.date, start: str = "", key: str = "0a0a0a0a") -> str:
    window = window_before(date, train_days=7, validation_days=2, test_days=2)
    folder = root.work(date, key)
    folder.write_inputs(window, start, {day: found for day, found in DAYS.items() if day < date})
    return folder.path.name


def test_days_that_arrive_later_and_days_from_the_date_on_change_nothing(tmp_path: Path) -> None:
    root = NightlyRoot(tmp_path)
    done(root, datetime.date(2011, 8, 20))
    later = {**DAYS, datetime.date(2011, 8, 20): "another", datetime.date(2011, 9, 20): "new"}
    assert stale_dates(root, later) == {}


def test_late_rows_make_their_days_run_stale_and_what_started_from_it(tmp_path: Path) -> None:
    root = NightlyRoot(tmp_path)
    early = done(root, datetime.date(2011, 8, 15))
    changed = done(root, datetime.date(2011, 8, 20), start=early)
    done(root, datetime.date(2011, 8, 21), start=changed)
    late = {**DAYS, datetime.date(2011, 8, 17): "with late rows"}

    found = stale_dates(root, late)
    assert [*found] == [datetime.date(2011, 8, 20), datetime.date(2011, 8, 21)]
    assert found[datetime.date(2011, 8, 20)] == "rows of 2011-08-17 changed after the run over them"


def test_a_run_whose_own_rows_stand_is_stale_by_the_model_that_it_started_from(tmp_path: Path) -> None:
    root = NightlyRoot(tmp_path)
    first = done(root, datetime.date(2011, 8, 15))
    late = {**DAYS, datetime.date(2011, 8, 14): "with late rows"}
    # Done again over the late rows but from the old model, as only a stale file could say.
    window = window_before(datetime.date(2011, 8, 16), train_days=7, validation_days=2, test_days=2)
    folder = root.work(datetime.date(2011, 8, 16), "0b0b0b0b")
    folder.write_inputs(window, first, {day: each for day, each in late.items() if day < datetime.date(2011, 8, 16)})

    found = stale_dates(root, late)
    assert found[datetime.date(2011, 8, 16)] == "it started from the model of 2011-08-15, which is stale"


def test_what_started_from_a_model_is_stale_until_it_is_done_again_too(tmp_path: Path) -> None:
    root = NightlyRoot(tmp_path)
    first, second = datetime.date(2011, 8, 15), datetime.date(2011, 8, 16)
    done(root, second, start=done(root, first))
    assert stale_dates(root, DAYS) == {}
    again = done(root, first, key="0b0b0b0b")
    assert stale_dates(root, DAYS) == {second: "it started from the model of 2011-08-15, which was done again since"}
    done(root, second, start=again, key="0c0c0c0c")
    assert stale_dates(root, DAYS) == {}


def test_a_day_that_vanished_is_a_change_too_and_many_are_counted(tmp_path: Path) -> None:
    root = NightlyRoot(tmp_path)
    done(root, datetime.date(2011, 8, 20))
    fewer = {day: found for day, found in DAYS.items() if not 5 <= day.day <= 9}
    why = stale_dates(root, fewer)[datetime.date(2011, 8, 20)]
    assert why == "rows of 2011-08-05, 2011-08-06, 2011-08-07 and 2 more days changed after the run over them"


def test_the_work_that_was_begun_last_counts(tmp_path: Path) -> None:
    root = NightlyRoot(tmp_path)
    date = datetime.date(2011, 8, 20)
    done(root, date)
    late = {**DAYS, datetime.date(2011, 8, 17): "with late rows"}
    assert [*stale_dates(root, late)] == [date]
    window = window_before(date, train_days=7, validation_days=2, test_days=2)
    root.work(date, "0c0c0c0c").write_inputs(window, "", {day: each for day, each in late.items() if day < date})
    assert stale_dates(root, late) == {}
