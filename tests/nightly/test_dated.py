"""The window of a night: it slides or grows, and a warm start learns from its newest days."""

import datetime
from pathlib import Path

import pytest

from recsys.nightly.dated import dated, window_of
from tests.nightly.shop import MONDAY, NightlyShop

FIRST = datetime.date(2024, 3, 2)


@pytest.fixture
def shop(tmp_path: Path) -> NightlyShop:
    return NightlyShop(tmp_path)


def test_it_slides_with_the_date(shop: NightlyShop) -> None:
    window = window_of(shop.config(), MONDAY)
    assert [str(part) for part in (window.train, window.validation, window.test)] == [
        "2024-03-04 up to 2024-03-14",
        "2024-03-14 up to 2024-03-16",
        "2024-03-16 up to 2024-03-18",
    ]
    assert window_of(shop.config(), MONDAY + datetime.timedelta(days=1)).train.first == datetime.date(2024, 3, 5)


def test_it_grows_from_the_datas_first_day_or_from_the_declared_one(shop: NightlyShop) -> None:
    growing = shop.config("daily.train_days=null")
    for passed in (0, 3):
        window = window_of(growing, MONDAY + datetime.timedelta(days=passed), first=FIRST)
        assert (window.train.first, window.train.num_days) == (FIRST, 12 + passed)
    shop.table.schema["table"]["splits"]["train_start"] = "2024-03-06"
    shop.table.write()
    assert window_of(growing, MONDAY, first=FIRST).train.first == datetime.date(2024, 3, 6)


@pytest.mark.parametrize(("words", "days"), [([], 5), (["daily.warm_days=50"], 10), (["daily.train_days=null"], 5)])
def test_a_warm_start_learns_from_the_newest_days_of_it(words: list[str], days: int, shop: NightlyShop) -> None:
    window = window_of(shop.config(*words), MONDAY, is_warm=True, first=FIRST)
    assert (window.train.num_days, window.test.end) == (days, MONDAY)


def test_its_days_become_the_splits_of_the_configuration(shop: NightlyShop) -> None:
    data = dated(shop.config(), window_of(shop.config(), MONDAY)).data
    assert (data.train_start, data.validation_start, data.test_start, data.test_end) == (
        "2024-03-04",
        "2024-03-14",
        "2024-03-16",
        "2024-03-18",
    )
