"""The real transactions: the protocol's counts, and features against a count by hand."""

import numpy as np
import pandas as pd
import pytest

from recsys.datasets.database import fetch, temporary_database
from recsys.progress import silent
from tests.datasets.online_retail.shop import document_counting, schema_of, shop_source

# Two days and a morning, so that the test is quick; the features behind them look back over all 22 months.
SPLITS = {
    "train_start": "2011-09-26",
    "validation_start": "2011-09-27",
    "test_start": "2011-09-28",
    "test_end": "2011-09-28 12:00",
}


@pytest.fixture(scope="module")
def real(online_retail_folder, tmp_path_factory):
    # What is in an expectation below, and no more.
    document = document_counting("user_invoices", "bought_times", "item_sold_14d", "item_sold_90d")
    source = shop_source(online_retail_folder, SPLITS, negatives=4, ranked=5, document=document)
    with temporary_database(tmp_path_factory.mktemp("real"), "1GB", 2) as connection:
        found = source.read(connection, schema_of(document), silent)
        rows = found.rows.select(
            "split", "query", "user_id", "item_id", "time", "label", "bought_times", "item_sold_14d", "item_sold_90d"
        )
        yield found.counts, fetch(connection, rows).to_pandas(), _segments(connection, found.rows)


@pytest.fixture(scope="module")
def lines(online_retail_folder) -> pd.DataFrame:
    table = pd.read_parquet(online_retail_folder / "transactions.parquet")
    kept = table[
        (table.quantity > 0)
        & (table.unit_price > 0)
        & table.customer_id.notna()
        & table.stock_code.str.contains("^[0-9]{5}")
    ]
    return kept.drop_duplicates(["invoice", "stock_code", "customer_id", "invoice_date"])


def test_the_protocols_counts_are_found(real):
    counts = real[0]

    assert {name: counts[name] for name in ("events", "queries", "users", "items")} == {
        "events": 639_999,
        "queries": 31_273,
        "users": 5_412,
        "items": 4_497,
    }


def test_candidates_and_counts_equal_those_of_a_plain_count(real, lines):
    _, rows, _ = real
    ranked = rows[rows.split == "ranking_test"]
    for query in np.random.default_rng(0).choice(ranked["query"].unique(), 3, replace=False):
        asked = ranked[ranked["query"] == query].set_index("item_id").sort_index()
        now, customer = asked.time.iloc[0], asked.user_id.iloc[0]
        before_today = lines[lines.invoice_date < now.normalize()]
        sold = {
            days: before_today[before_today.invoice_date >= now.normalize() - pd.Timedelta(days=days)]
            .groupby("stock_code")
            .size()
            for days in (14, 90)
        }
        own = lines[(lines.customer_id == customer) & (lines.invoice_date < now)].groupby("stock_code").size()

        assert asked.index.tolist() == sorted(sold[90].index)
        for column, counted in (("item_sold_90d", sold[90]), ("item_sold_14d", sold[14]), ("bought_times", own)):
            assert np.array_equal(asked[column], counted.reindex(asked.index, fill_value=0)), column


def test_every_invoice_of_the_test_hours_ranks_and_segments_follow_the_invoices_before(real, lines):
    _, rows, segments = real
    invoices = lines.groupby("invoice").agg(time=("invoice_date", "min"), customer=("customer_id", "first"))
    asked = invoices[(invoices.time >= "2011-09-28") & (invoices.time < "2011-09-28 12:00")]

    assert rows[rows.split == "ranking_test"]["query"].nunique() == len(asked)
    for customer, time in asked.sample(20, random_state=0)[["customer", "time"]].itertuples(index=False):
        earlier = int(((invoices.customer == customer) & (invoices.time < time)).sum())
        name = "new" if earlier == 0 else "light" if earlier <= 3 else "regular" if earlier <= 15 else "heavy"
        assert segments[int(customer), time] == name


def test_there_are_four_negatives_for_each_positive(real):
    _, rows, _ = real
    counts = rows[rows.split.isin(["train", "validation", "test"])].groupby(["split", "label"]).size()

    for split in ("train", "validation", "test"):
        assert counts[split, 0] == 4 * counts[split, 1]


def _segments(connection, rows) -> dict:
    found = fetch(connection, rows.select("user_id", "time", "segment").distinct()).to_pylist()
    return {(row["user_id"], pd.Timestamp(row["time"])): row["segment"] for row in found}
