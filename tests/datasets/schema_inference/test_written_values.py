"""Texts that are times, numbers or lists, and names that are called after a role."""

import pytest

from recsys.datasets.schema_inference.raw_tables import pattern_of
from recsys.datasets.schema_inference.role_words import Role, score
from recsys.datasets.schema_inference.written_values import epoch_unit, number_of, separator_of, written_time


@pytest.mark.parametrize(
    ("odd", "expression"),
    [
        (["1,234.50", "9,000"], "cast(replace(price, ',', '') as double)"),
        (["12,50"], "cast(replace(price, ',', '.') as double)"),
        (["1.234,50", "7,1"], "cast(replace(replace(price, '.', ''), ',', '.') as double)"),
        (["$9.99"], "cast(replace(price, '$', '') as double)"),
        (["$1,000.00"], "cast(replace(replace(price, '$', ''), ',', '') as double)"),
        (["cheap"], ""),
        ([], ""),
    ],
)
def test_numbers_with_commas_and_signs_are_read_by_an_expression(odd: list[str], expression: str):
    assert number_of("price", odd, [*odd, "7"]) == expression


def test_times_are_read_in_the_one_form_that_fits_all_of_them():
    assert written_time(["2024-01-05T10:00:00+02:00", "2024-01-05 10:00:00"]).zoned == 0.5
    assert written_time(["24/12/2011", "01/02/2012"]).format == "%d/%m/%Y"
    assert written_time(["12/24/2011", "01/02/2012"]).format == "%m/%d/%Y"
    assert written_time(["01/02/2012"]).other_format == "%m/%d/%Y"
    assert written_time(["01/02/2012", "soon"]) is None


def test_numbers_are_times_by_their_size():
    assert epoch_unit(1_600_000_000, 1_700_000_000) == "seconds"
    assert epoch_unit(1_600_000_000_000, 1_700_000_000_000) == "ms"
    assert epoch_unit(0, 1_700_000_000) == ""


def test_sentences_with_commas_are_no_lists():
    assert separator_of(["Action|Comedy", "Comedy", "Action|Drama|Comedy", "Drama|Action"]) == "|"
    assert separator_of([f"Lamp {n}, blue, for house {n}" for n in range(20)]) == ""


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("reviewerID", Role.USER),
        ("Customer ID", Role.USER),
        ("userId", Role.USER),
        ("StockCode", Role.ITEM),
        ("asin", Role.ITEM),
        ("movieId", Role.ITEM),
        ("order_id", Role.QUERY),
        ("InvoiceNo", Role.QUERY),
    ],
)
def test_names_of_well_known_tables_are_recognised(name: str, role: Role):
    assert score(name, role) >= 3


@pytest.mark.parametrize(
    ("name", "role"), [("user_age", Role.USER), ("item_price", Role.ITEM), ("country", Role.QUERY)]
)
def test_names_of_other_things_are_not(name: str, role: Role):
    assert score(name, role) == 0


def test_a_pattern_names_its_files_and_no_others():
    days = [f"day=2024-01-0{n}/part-0.parquet" for n in range(1, 4)]

    assert pattern_of(days, [*days, "items.parquet"]) == "day=*/*.parquet"
    assert pattern_of(["events.csv"], ["events.csv", "items.csv"]) == "events.csv"
    assert pattern_of(["a.csv", "b.csv"], ["a.csv", "b.csv", "items.csv"]) == ["a.csv", "b.csv"]
    assert pattern_of(["s/a.csv", "s/b.csv"], ["s/a.csv", "s/b.csv", "items.csv"]) == "s/*.csv"
