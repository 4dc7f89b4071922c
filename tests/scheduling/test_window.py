"""Which days a scheduled run trains on; days are UTC and half-open."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError, UsageError
from recsys.scheduling.window import DayRange, Readiness, complete_days, readiness, window_before

SEPTEMBER = date(2011, 9, 1)
WINDOW = window_before(SEPTEMBER, train_days=90, validation_days=14, test_days=7)


def test_windows_of_a_date_by_hand() -> None:
    assert WINDOW.test == DayRange(date(2011, 8, 25), SEPTEMBER)
    assert WINDOW.validation == DayRange(date(2011, 8, 11), date(2011, 8, 25))
    assert WINDOW.train == DayRange(date(2011, 5, 13), date(2011, 8, 11))
    assert WINDOW.whole.num_days == 111


@given(
    run_date=st.dates(date(1990, 1, 1), date(2100, 1, 1)),
    train_days=st.integers(1, 400),
    validation_days=st.integers(1, 60),
    test_days=st.integers(1, 60),
)
def test_no_day_is_in_two_windows_and_none_between_them_is_left_out(
    run_date: date, train_days: int, validation_days: int, test_days: int
) -> None:
    window = window_before(run_date, train_days=train_days, validation_days=validation_days, test_days=test_days)
    days = [*window.train.days, *window.validation.days, *window.test.days]

    assert days == list(window.whole.days)
    assert len(days) == train_days + validation_days + test_days
    assert days[-1] == run_date - timedelta(days=1)
    assert run_date not in window.whole


def test_window_without_days_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="`validation_days` is 0; a run needs at least one day"):
        window_before(SEPTEMBER, train_days=1, validation_days=0, test_days=1)
    with pytest.raises(UsageError, match="from 2011-09-01 up to 2011-09-01 are none"):
        DayRange(SEPTEMBER, SEPTEMBER)


def test_run_waits_for_its_last_day_and_says_so() -> None:
    state, reason = readiness(WINDOW, DayRange(date(2010, 12, 1), date(2011, 8, 31)), is_done=False)

    assert state is Readiness.NOT_THERE_YET
    assert reason == "The data are complete before 2011-08-31, and the run needs every day before 2011-09-01."


def test_run_goes_once_its_last_day_is_complete_and_only_once() -> None:
    complete = DayRange(date(2010, 12, 1), SEPTEMBER)

    state, reason = readiness(WINDOW, complete, is_done=False)
    again, _ = readiness(WINDOW, complete, is_done=True)

    assert (state, again) == (Readiness.GO, Readiness.ALREADY_DONE)
    assert "Training on 2011-05-13 up to 2011-08-11" in reason


def test_data_that_begin_after_the_window_are_refused_as_no_waiting_mends_that() -> None:
    with pytest.raises(DataError, match=r"data begin on 2011-05-20.*at least 7 days later, or fewer training days"):
        readiness(WINDOW, DayRange(date(2011, 5, 20), SEPTEMBER), is_done=False)


def test_day_of_the_newest_event_may_still_grow() -> None:
    days = [date(2011, 1, 4), date(2011, 3, 1), SEPTEMBER]
    assert complete_days(days, SEPTEMBER) == DayRange(date(2011, 1, 4), SEPTEMBER)
    with pytest.raises(DataError, match="All events are of 2011-01-04"):
        complete_days(days[:1], SEPTEMBER)


def test_events_of_days_to_come_show_nothing() -> None:
    days = [date(2011, 1, 4), date(2011, 3, 1), date(2099, 1, 1)]
    assert complete_days(days, SEPTEMBER) == DayRange(date(2011, 1, 4), date(2011, 3, 1))
    with pytest.raises(DataError, match="No event is of 2011-09-01 or earlier"):
        complete_days(days[2:], SEPTEMBER)
