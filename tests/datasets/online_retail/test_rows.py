"""Features, segments, candidates and labels of a shop small enough to count by hand."""

import math
from datetime import datetime

import pytest

from tests.datasets.online_retail.shop import SPLITS, line, read_rows

# Customer 7 buys a lamp twice and a mug once, then asks in training for a lamp; customer 8 buys mugs and a rug.
LAMP, MUG, RUG, TOY = "11111", "22222A", "33333", "44444"
LINES = [
    line("A1", LAMP, "01-02 09:00", 7, price=math.e - 1, title="Red LAMP (small) "),
    line("A1", MUG, "01-02 09:00", 7, price=math.e - 1),
    line("A2", LAMP, "01-05 09:00", 7, price=math.e - 1, title="lamp, renamed"),
    line("B1", MUG, "01-06 12:00", 8),
    line("B1", RUG, "01-06 12:00", 8),
    line("A3", LAMP, "01-12 09:00", 7),
    line("A3", TOY, "01-12 09:00", 7),
    line("B2", MUG, "01-21 12:00", 8),
    line("C1", RUG, "01-26 10:00", 9),
    line("A4", MUG, "01-26 23:00", 7),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return read_rows(tmp_path_factory.mktemp("shop"), LINES)


def row_of(rows, split: str, customer: int, item: str) -> dict:
    return next(r for r in rows if (r["split"], r["user_id"], r["item_id"]) == (split, customer, item))


def test_the_customers_past_is_counted_before_the_invoice(rows):
    row = row_of(rows, "train", 7, LAMP)

    assert row["label"] == 1
    assert row["segment"] == "light"
    assert row["user_invoices"] == 2
    assert row["user_basket_size"] == pytest.approx(1.5)
    assert row["user_days_away"] == pytest.approx(7)
    assert row["user_tenure_days"] == pytest.approx(10)
    assert row["user_repeat_share"] == pytest.approx(1 / 3)
    assert row["user_price"] == pytest.approx(1.0, abs=1e-5)


def test_what_the_customer_had_before_is_counted_before_the_invoice(rows):
    row = row_of(rows, "train", 7, LAMP)

    assert (row["bought_times"], row["had_before"], row["is_new_to_user"]) == (2, 1, 0)
    assert row["days_since_bought"] == pytest.approx(7)
    assert row["bought_share"] == pytest.approx(1.0)
    assert row["price_gap"] == pytest.approx(0, abs=1e-5)
    assert row["recent_item_ids"] == [MUG, LAMP]


def test_what_the_customer_never_had_is_new(rows):
    row = row_of(rows, "train", 7, TOY)

    assert (row["bought_times"], row["had_before"], row["is_new_to_user"]) == (0, 0, 1)
    assert row["days_since_bought"] is None


def test_popularity_counts_whole_days_before_the_invoices_day(rows):
    row = row_of(rows, "train", 7, LAMP)
    # Sold on 2, 5 January; the 7 days before the 12th begin on the 5th.
    assert (row["item_sold_7d"], row["item_sold_14d"], row["item_sold_90d"]) == (1, 2, 2)
    assert row["item_age_days"] == 10
    assert row["item_repeat_share"] == pytest.approx((1 + 1) / (1 + 5))
    assert row["item_price"] == pytest.approx(1.0, abs=1e-5)
    assert row["item_trend"] == pytest.approx(math.log(3 / (2 * 14 / 90 + 1)))

    # The rug that customer 9 buys at 10:00 is not yet in what customer 7 sees at 23:00 of the same day.
    assert row_of(rows, "ranking_test", 7, RUG)["item_sold_7d"] == 0
    assert row_of(rows, "ranking_test", 7, RUG)["item_sold_90d"] == 1


def test_a_product_that_was_not_sold_before_is_no_candidate_but_still_a_positive(rows):
    toy = row_of(rows, "train", 7, TOY)

    assert (toy["label"], toy["item_sold_90d"], toy["item_price"]) == (1, 0, None)
    assert toy["log_sampling_rate"] == 0


def test_the_sampling_rate_is_the_square_root_of_the_count_of_90_days(rows):
    assert row_of(rows, "train", 7, LAMP)["log_sampling_rate"] == pytest.approx(math.log(math.sqrt(2)))


def test_negatives_are_candidates_that_are_not_on_the_invoice(rows):
    train = [row for row in rows if row["split"] == "train"]

    assert sorted(row["item_id"] for row in train if row["label"] == 1) == [LAMP, TOY]
    # Two for each of the two positives, drawn from the mug and the rug.
    negatives = [row["item_id"] for row in train if row["label"] == 0]
    assert len(negatives) == 4
    assert set(negatives) <= {MUG, RUG}


def test_every_test_invoice_ranks_every_candidate(rows):
    ranked = [row for row in rows if row["split"] == "ranking_test"]

    assert [(row["user_id"], row["item_id"], row["label"]) for row in ranked] == [
        (9, RUG, 1),
        (9, LAMP, 0),
        (9, MUG, 0),
        (9, TOY, 0),
        (7, MUG, 1),
        (7, LAMP, 0),
        (7, RUG, 0),
        (7, TOY, 0),
    ]
    assert {row["query"] for row in ranked if row["user_id"] == 9} != {
        row["query"] for row in ranked if row["user_id"] == 7
    }


def test_affinity_is_the_cosine_of_shared_invoices_summed_over_the_last_products(rows):
    # Before the 21st the mug stands on A1 and B1, the rug on B1, the lamp on A1, A2, A3. Customer 8 last bought both.
    ranked = "ranking_validation"
    assert row_of(rows, ranked, 8, RUG)["affinity"] == pytest.approx(1 / math.sqrt(2 * 1))
    assert row_of(rows, ranked, 8, LAMP)["affinity"] == pytest.approx(1 / math.sqrt(2 * 3))
    # Customer 9 never bought.
    assert row_of(rows, "ranking_test", 9, LAMP)["affinity"] == 0


def test_the_first_known_title_becomes_its_words(rows):
    assert row_of(rows, "train", 7, LAMP)["title_words"] == ["lamp", "red", "small"]


def test_a_customer_without_a_past_is_new_and_has_nothing_to_count(rows):
    row = row_of(rows, "test", 9, RUG)

    assert row["segment"] == "new"
    assert row["user_invoices"] == 0
    assert row["recent_item_ids"] == []
    assert [row[name] for name in ("user_basket_size", "user_days_away", "user_price")] == [None] * 3


def test_last_years_season_is_counted_from_three_days_before_to_two_weeks_after(tmp_path):
    lines = [
        line("A0", MUG, "01-01 10:00", 7),
        line("A1", LAMP, "01-06 10:00", 7),
        line("A2", LAMP, "01-07 10:00", 7),
        line("A3", LAMP, "01-24 10:00", 7),
        line("A4", LAMP, "01-25 10:00", 7),
        {**line("A5", LAMP, "01-10 10:00", 7), "invoice_date": datetime(2012, 1, 10, 10)},
    ]
    splits = {name: day.replace("2011", "2012").replace("01-10", "01-01") for name, day in SPLITS.items()}

    (row,) = [row for row in read_rows(tmp_path, lines, splits) if row["label"] == 1]

    # 368 to 351 days before 2012-01-10: 2011-01-07 to 2011-01-24.
    assert row["item_season"] == 2


def test_only_sales_of_products_to_known_customers_are_kept_and_a_product_twice_on_an_invoice_once(rows, tmp_path):
    dropped = [
        line("C9", LAMP, "01-11 10:00", 7, quantity=-1),
        line("A9", LAMP, "01-11 10:00", 7, price=0.0),
        line("A8", LAMP, "01-11 10:00", 7, price=float("nan")),
        line("A7", LAMP, "01-11 10:00", None),
        line("A6", "POST", "01-11 10:00", 7),
    ]
    twice = line("A3", LAMP, "01-12 09:00", 7, quantity=5)

    assert read_rows(tmp_path, [*LINES, *dropped, twice]) == rows


def test_the_sample_of_ranked_validation_invoices_has_its_size_and_depends_on_the_seed(tmp_path):
    extra = [line(f"V{n}", MUG, f"01-22 {n:02d}:00", 100 + n) for n in range(9)]

    def ranked(seed: int) -> set:
        rows = read_rows(tmp_path / str(seed), LINES + extra, ranked=3, seed=seed)
        return {row["query"] for row in rows if row["split"] == "ranking_validation"}

    first, other = ranked(0), ranked(1)
    assert len(first) == len(other) == 3
    assert first != other
