"""Transactions -> events (who bought what when), numbered invoices and numbered products.

Rows kept: quantity > 0, unit price > 0, customer known, stock code starting with five digits. An event is one
(invoice, product, minute): a product that an invoice lists twice in one minute is one event.
"""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.segments import earlier_count
from recsys.datasets.staging import missing_or_infinite_as_null

SECONDS_PER_DAY = 86_400
# Log prices are kept as whole millionths: sums of integers do not depend on the order in which threads add them.
LOG_PRICE_STEPS = 1_000_000


@dataclass(frozen=True)
class Events:
    """The cleaned transactions, as tables of the database.

    Attributes:
        items: item (int32, numbered in the order of the stock codes), stock_code, title (its first known description).
        queries: query (int32, numbered by time), invoice, customer, time (when it begins), day_number, country.
        events: query, item, customer, time, day_number, log_price (whole millionths), item_purchase and
            customer_purchase (how many events of this product by this customer, and of any product, came strictly
            before).
    """

    items: ir.Table
    queries: ir.Table
    events: ir.Table


def read_events(connection: Backend, transactions: ir.Table) -> Events:
    """Clean and number the transactions.

    Args:
        transactions: invoice, stock_code, description, quantity, invoice_date, unit_price, customer_id, country.
    """
    kept = store(connection, "kept_lines", _kept(transactions))
    items = store(connection, "items", _items(kept))
    queries = store(connection, "queries", _queries(kept))
    return Events(items, queries, store(connection, "events", _events(kept, items, queries)))


def day_number(time: ir.TimestampValue) -> ir.IntegerValue:
    """Days since 1970-01-01, by the midnight of UTC."""
    return (time.epoch_seconds() // SECONDS_PER_DAY).cast("int32")


def _kept(transactions: ir.Table) -> ir.Table:
    priced = transactions.mutate(unit_price=missing_or_infinite_as_null(transactions.unit_price))
    lines = priced.filter(
        priced.quantity > 0,
        priced.unit_price > 0,
        priced.customer_id.notnull(),
        priced.stock_code.re_search("^[0-9]{5}"),
    )
    log_price = ((lines.unit_price + 1).ln() * LOG_PRICE_STEPS).round().cast("int64")
    return lines.group_by(["invoice", "stock_code", "customer_id", "invoice_date"]).aggregate(
        log_price=log_price.min(),
        # Repeats within a minute may spell the title differently; the greatest is as good as any and never changes.
        description=lines.description.strip().max(),
        country=lines.country.max(),
    )


def _items(kept: ir.Table) -> ir.Table:
    # The first known title: a later, better spelling would let the past depend on the future.
    titles = kept.group_by("stock_code").aggregate(
        title=kept.description.first(order_by=[kept.invoice_date, kept.description])
    )
    return titles.select(
        item=ibis.row_number().over(order_by=titles.stock_code).cast("int32"),
        stock_code=titles.stock_code,
        title=titles.title.fill_null("").lower(),
    )


def _queries(kept: ir.Table) -> ir.Table:
    invoices = kept.group_by("invoice").aggregate(
        customer=kept.customer_id.min(), time=kept.invoice_date.min(), country=kept.country.max()
    )
    return invoices.select(
        query=ibis.row_number().over(order_by=[invoices.time, invoices.invoice]).cast("int32"),
        invoice=invoices.invoice,
        customer=invoices.customer,
        time=invoices.time,
        day_number=day_number(invoices.time),
        country=invoices.country,
    )


def _events(kept: ir.Table, items: ir.Table, queries: ir.Table) -> ir.Table:
    numbered = kept.join(items, "stock_code").join(queries, "invoice")
    events = numbered.select(
        query=numbered.query,
        item=numbered.item,
        customer=numbered.customer,
        time=kept.invoice_date,
        day_number=day_number(kept.invoice_date),
        log_price=kept.log_price,
    )
    return events.mutate(
        item_purchase=ibis.rank().over(group_by=[events.customer, events.item], order_by=events.time),
        customer_purchase=earlier_count(events.customer, events.time),
    )
