"""The Online Retail source: joins examples with features into the rows that `encode` takes."""

from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one, store
from recsys.datasets.online_retail.events import Events, read_events
from recsys.datasets.online_retail.examples import RANKING, Sampling, list_examples
from recsys.datasets.online_retail.features import (
    CANDIDATE_DAYS,
    RECENT_ITEMS,
    customer_features,
    pair_features,
    product_features,
)
from recsys.datasets.online_retail.transactions import read_transactions
from recsys.datasets.source import DAY, SPLIT, SourceRows
from recsys.datasets.split import TimeSplit
from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress

EXTRAS = ("user_key", "query", "log_sampling_rate", "is_new_to_user")


@dataclass(frozen=True)
class OnlineRetailSource:
    """Rows of the pointwise task (train, validation, test) and of the ranking task (ranking_validation, ranking_test).

    A row is an invoice and a product: label 1 if the product is on the invoice. The pointwise splits hold every product
    on an invoice and `sampling.negatives_per_positive` sampled candidates for each; the ranking splits hold every
    candidate, that is every product sold in the 90 days before the invoice's day.

    Attributes:
        path: a folder with the transactions, or the file itself: Parquet, or the publisher's zip, xlsx or csv.
        split: when training, validation and test begin and end. Earlier transactions only serve as history.
    """

    path: Path
    split: TimeSplit
    sampling: Sampling

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """See `recsys.datasets.source.Source`; the schema is `data/schemas/online_retail.yaml` or a part of it."""
        transactions, files = read_transactions(connection, self.path, progress)
        progress("events", 0, 0)
        events = read_events(connection, transactions)
        self._require_history(connection, events)
        customers = customer_features(connection, events, self.split)
        products = product_features(connection, events, self.split)
        pairs = pair_features(connection, events, customers)
        examples = list_examples(connection, events, customers, products, pairs, self.sampling, progress)
        rows = _join(connection, events, customers, products, pairs, examples)
        return SourceRows(rows, EXTRAS, self._description(files), _counts(connection, events, examples, products))

    def _require_history(self, connection: Backend, events: Events) -> None:
        found = fetch_one(
            connection,
            events.queries.aggregate(
                first=events.queries.time.min(), last=events.queries.time.max(), invoices=events.queries.count()
            ),
        )
        if not found["invoices"] or found["first"].date() >= self.split.train_start:
            raise DataError(
                f"{self.path}: 0 invoices before train_start {self.split.train_start} (found {found['invoices']}, from "
                f"{found['first']} to {found['last']}). Candidates are the products sold in the {CANDIDATE_DAYS} days "
                "before an invoice: choose a later train_start, or add earlier transactions."
            )

    def _description(self, files: dict[str, str]) -> dict[str, object]:
        return {
            "source": "online_retail",
            "files": files,
            "dates": self.split.to_document(),
            "negatives": f"{self.sampling.negatives_per_positive} independent draws for each positive, from the "
            f"products sold in the {CANDIDATE_DAYS} days before that are not on the invoice, in proportion to the "
            "square root of their count",
            "seed": self.sampling.seed,
            "ranking_validation_invoices": self.sampling.ranking_validation_invoices,
        }


def _join(
    connection: Backend,
    events: Events,
    customers: ir.Table,
    products: ir.Table,
    pairs: ir.Table,
    examples: ir.Table,
) -> ir.Table:
    invoices = _with_recent_items(connection, events, customers, pairs)
    titles = _with_title_words(connection, events)
    joined = (
        examples.join(invoices, "query")
        .join(products, ["item", "day_number"])
        .join(titles, "item")
        .left_join(pairs, ["query", "item"])
    )
    bought = joined.bought_times.fill_null(0)
    ranking = joined.split.substitute(RANKING)
    names = [name for table in (customers, products) for name in table.columns if name.startswith(("user_", "item_"))]
    return joined.select(
        *names,
        "recent_item_ids",
        "title_words",
        "affinity",
        "label",
        "segment",
        "time",
        user_id=joined.customer,
        item_id=joined.item_id,
        country=joined.country,
        month=joined.time.month(),
        bought_times=bought,
        days_since_bought=joined.days_since_bought,
        had_before=(bought > 0).cast("float32"),
        bought_share=(bought / joined.user_invoices.nullif(0)).cast("float32"),
        price_gap=joined.item_price - joined.user_price,
        **{SPLIT: joined.is_ranking.ifelse(ranking, joined.split), DAY: joined.time.date()},
        user_key=joined.customer.cast("int64"),
        query=joined.query.cast("int64"),
        # A product that nobody bought in the 90 days is on the list only as a positive, never as a candidate.
        log_sampling_rate=(ibis.greatest(joined.sold_90d, 1).ln() / 2).cast("float32"),
        is_new_to_user=(bought == 0).cast("int8"),
    )


def _with_recent_items(connection: Backend, events: Events, customers: ir.Table, pairs: ir.Table) -> ir.Table:
    # An ENUM keeps a list of twenty ids in forty bytes through millions of rows, and still is a list of ids.
    codes = connection.compile(events.items.order_by("item").select("stock_code"))
    connection.raw_sql(f"CREATE TYPE item_id AS ENUM ({codes})")
    connection.raw_sql("CREATE TABLE item_ids AS SELECT item, stock_code::item_id AS item_id FROM items")
    named = pairs.filter(pairs.recency < RECENT_ITEMS).join(connection.table("item_ids"), "item")
    recent = named.group_by("query").aggregate(recent_item_ids=named.item_id.collect(order_by=named.recency.desc()))
    return store(
        connection, "invoices", customers.left_join(recent, "query").select(*customers.columns, "recent_item_ids")
    )


def _with_title_words(connection: Backend, events: Events) -> ir.Table:
    items = events.items
    words = items.select("item", word=items.title.re_split("[^a-z0-9]+").unnest()).filter(ibis._.word != "")
    store(connection, "words", words.distinct())
    connection.raw_sql("CREATE TYPE word AS ENUM (SELECT DISTINCT word FROM words ORDER BY word)")
    connection.raw_sql(
        "CREATE TABLE title_words AS "
        "SELECT item, list(word::word ORDER BY word) AS title_words FROM words GROUP BY item"
    )
    ids, lists = connection.table("item_ids"), connection.table("title_words")
    return ids.left_join(lists, "item").select("item", "item_id", "title_words")


def _counts(connection: Backend, events: Events, examples: ir.Table, products: ir.Table) -> dict[str, int]:
    no_candidate = examples.filter(~examples.is_ranking, examples.label == 1).join(
        events.queries.select("query", "day_number"), "query"
    )
    unsold = no_candidate.join(products.filter(products.sold_90d == 0), ["item", "day_number"])
    found = fetch_one(
        connection,
        events.events.aggregate(
            events=events.events.count(),
            invoices=events.events["query"].nunique(),
            customers=events.events.customer.nunique(),
            products=events.events.item.nunique(),
        ),
    )
    return {**found, "positives that are no candidate": fetch_one(connection, unsold.aggregate(n=unsold.count()))["n"]}
