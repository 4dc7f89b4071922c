"""What was known before each invoice: about its customer, about each product that day, and about the two together.

Customer and pair features count events strictly before the invoice's time; product features count whole days strictly
before the invoice's day. Nothing later enters, so later data never changes an earlier row.
"""

from datetime import date
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.online_retail.events import LOG_PRICE_STEPS, SECONDS_PER_DAY, Events
from recsys.datasets.segments import ACTIVITY_SEGMENTS, segment_by_activity
from recsys.datasets.split import TimeSplit

CANDIDATE_DAYS = 90
RECENT_ITEMS = 20
# Last year's same season: from three days before the date to two weeks after it, which is all past by now.
_SEASON_FIRST_DAYS, _SEASON_LAST_DAYS = 368, 351
# A share of few purchases is drawn towards this many purchases of the average product, about one in five repeated.
_PRIOR_BUYERS, _PRIOR_REPEATERS = 5, 1


def customer_features(connection: Backend, events: Events, split: TimeSplit) -> ir.Table:
    """Return one row per invoice of the splits: the customer's past, the segment and the invoice's own columns."""
    visits = store(connection, "visits", _visits(events))
    past = ibis.window(group_by="customer", order_by="time", preceding=(None, 1))
    known = visits.mutate(
        earlier_invoices=visits.invoices.sum().over(past).fill_null(0),
        earlier_lines=visits.lines.sum().over(past).fill_null(0),
        earlier_repeats=visits.repeats.sum().over(past).fill_null(0),
        log_price_sum=visits.log_price.sum().over(past).fill_null(0),
        last_time=visits.time.max().over(past),
        first_time=visits.time.min().over(past),
    )
    asked = events.queries.filter(split.contains(events.queries.time))
    joined = asked.join(known, ["customer", "time"])
    return store(
        connection,
        "customer_features",
        joined.select(
            *asked.columns,
            split=split.name_of(joined.time),
            segment=segment_by_activity(joined.earlier_invoices, ACTIVITY_SEGMENTS),
            **_narrow(
                user_invoices=joined.earlier_invoices,
                user_basket_size=joined.earlier_lines / joined.earlier_invoices.nullif(0),
                user_days_away=_days_between(joined.last_time, joined.time),
                user_tenure_days=_days_between(joined.first_time, joined.time),
                user_repeat_share=joined.earlier_repeats / joined.earlier_lines.nullif(0),
                user_price=joined.log_price_sum / (joined.earlier_lines.nullif(0) * LOG_PRICE_STEPS),
            ),
        ),
    )


def product_features(connection: Backend, events: Events, split: TimeSplit) -> ir.Table:
    """Return one row per product and day of the splits on which the product is a candidate or was sold.

    `sold_90d` > 0 says that it is a candidate.
    """
    grid = store(connection, "product_days", _product_days(events, split))
    window = {name: _days_before(first, last) for name, (first, last) in _WINDOWS.items()}
    ever = ibis.window(group_by="item", order_by="day_number", preceding=(None, 1))
    counted = grid.mutate(
        **{name: grid.sold.sum().over(frame).fill_null(0).cast("int32") for name, frame in window.items()},
        buyers=grid.first_purchases.sum().over(ever).fill_null(0).cast("int32"),
        repeaters=grid.second_purchases.sum().over(ever).fill_null(0).cast("int32"),
        log_price_sum=grid.log_price.sum().over(ever),
        sold_ever=grid.sold.sum().over(ever),
        age_days=grid.day_number - grid.day_number.min().over(ibis.window(group_by="item")),
    )
    first_day = _number_of(split.train_start)
    rows = counted.filter(counted.day_number >= first_day, (counted.sold_90d > 0) | (counted.sold > 0))
    return store(
        connection,
        "product_features",
        rows.select(
            "item",
            "day_number",
            "sold_90d",
            **_narrow(
                item_sold_7d=rows.sold_7d,
                item_sold_14d=rows.sold_14d,
                item_sold_90d=rows.sold_90d,
                item_trend=((rows.sold_14d + 1) / (rows.sold_90d * 14 / CANDIDATE_DAYS + 1)).ln(),
                item_season=rows.sold_season,
                item_repeat_share=(rows.repeaters + _PRIOR_REPEATERS) / (rows.buyers + _PRIOR_BUYERS),
                item_price=rows.log_price_sum / (rows.sold_ever.nullif(0) * LOG_PRICE_STEPS),
                item_age_days=rows.age_days,
            ),
        ),
    )


def pair_features(connection: Backend, events: Events, customers: ir.Table) -> ir.Table:
    """Return one row per invoice of the splits and product that its customer had bought before.

    `recency` is 0 for the product bought last; ties go by the product's number.
    """
    bought = customers.select("query", "customer", now=customers.time).join(
        events.events.select("customer", "item", "time"), "customer"
    )
    past = bought.filter(bought.time < bought.now)
    pairs = past.group_by(["query", "item"]).aggregate(
        times=past.count(), last_time=past.time.max(), now=past.now.max()
    )
    return store(
        connection,
        "pair_features",
        pairs.select(
            "query",
            "item",
            **_narrow(bought_times=pairs.times, days_since_bought=_days_between(pairs.last_time, pairs.now)),
            recency=ibis.row_number()
            .over(group_by=pairs.query, order_by=[pairs.last_time.desc(), pairs.item])
            .cast("int32"),
        ),
    )


_WINDOWS = {
    "sold_7d": (7, 1),
    "sold_14d": (14, 1),
    "sold_90d": (CANDIDATE_DAYS, 1),
    "sold_season": (_SEASON_FIRST_DAYS, _SEASON_LAST_DAYS),
}


def _visits(events: Events) -> ir.Table:
    """One row per customer and time at which an invoice begins or a line was added."""
    begun = events.queries.group_by(["customer", "time"]).aggregate(invoices=events.queries.count())
    bought = events.events
    lines = bought.group_by(["customer", "time"]).aggregate(
        lines=bought.count(), repeats=(bought.item_purchase > 0).sum(), log_price=bought.log_price.sum()
    )
    joined = begun.outer_join(lines, ["customer", "time"])
    return joined.select(
        customer=ibis.coalesce(begun.customer, lines.customer),
        time=ibis.coalesce(begun.time, lines.time),
        **{name: joined[name].fill_null(0).cast("int64") for name in ("invoices", "lines", "repeats", "log_price")},
    )


def _product_days(events: Events, split: TimeSplit) -> ir.Table:
    """Every product on every day from its first sale to the end of the splits, with what was sold that day."""
    bought = events.events
    sold = bought.group_by(["item", "day_number"]).aggregate(
        sold=bought.count(),
        first_purchases=(bought.item_purchase == 0).sum(),
        second_purchases=(bought.item_purchase == 1).sum(),
        log_price=bought.log_price.sum().cast("int64"),
    )
    first = bought.group_by("item").aggregate(first_day=bought.day_number.min())
    last_day = _number_of(split.last_day)
    days = first.filter(first.first_day <= last_day).select(
        "item", day_number=ibis.range(first.first_day, last_day + 1).unnest().cast("int32")
    )
    joined = days.left_join(sold, ["item", "day_number"])
    counts = ("sold", "first_purchases", "second_purchases", "log_price")
    return joined.select("item", "day_number", **{name: joined[name].fill_null(0).cast("int64") for name in counts})


def _days_before(first: int, last: int) -> Any:
    # The grid has a row for every day, so rows are days.
    return ibis.window(group_by="item", order_by="day_number", preceding=(first, last))


def _days_between(earlier: ir.TimestampValue, later: ir.TimestampValue) -> ir.FloatingValue:
    return (later.epoch_seconds() - earlier.epoch_seconds()) / SECONDS_PER_DAY


def _narrow(**columns: ir.Value) -> dict[str, ir.Value]:
    # Joined to ten million rows, half the width is half the time.
    return {name: values.cast("float32") for name, values in columns.items()}


def _number_of(day: date) -> int:
    return (day - date(1970, 1, 1)).days
