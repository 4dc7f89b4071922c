"""A tiny shop: transactions written down by hand, and the rows that the source makes of them."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.archives.retail_transactions import COLUMNS
from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.online_retail.examples import Sampling
from recsys.datasets.online_retail.retail_source import OnlineRetailSource
from recsys.datasets.split import TimeSplit
from recsys.features.schema import FeatureSchema, load_schema
from recsys.progress import silent

SCHEMA_PATH = Path(__file__).resolve().parents[3] / "data" / "schemas" / "online_retail.yaml"
SPLIT = TimeSplit.from_days("2011-01-10", "2011-01-20", "2011-01-25", "2011-02-01")
SAMPLING = Sampling(negatives_per_positive=2, ranking_validation_invoices=1, seed=0)

Line = tuple[str, str, str, int, datetime, float, int | None, str]


def line(
    invoice: str,
    code: str,
    time: str,
    customer: int | None,
    *,
    quantity: int = 1,
    price: float = 2.0,
    title: str | None = None,
    country: str = "Eire",
) -> dict[str, object]:
    """One transaction; `time` is written like "01-10 09:00", in 2011."""
    return {
        "invoice": invoice,
        "stock_code": code,
        "description": title if title is not None else f"THING {code}",
        "quantity": quantity,
        "invoice_date": datetime.fromisoformat(f"2011-{time}:00"),
        "unit_price": price,
        "customer_id": customer,
        "country": country,
    }


def write_transactions(folder: Path, lines: list[dict[str, object]]) -> Path:
    """Write the lines as the folder's Parquet file and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(lines, schema=pa.schema(COLUMNS)), folder / "transactions.parquet")
    return folder


def schema() -> FeatureSchema:
    """The schema that ships with the project."""
    return load_schema(SCHEMA_PATH)


def read_rows(
    folder: Path, lines: list[dict[str, object]], sampling: Sampling = SAMPLING, split: TimeSplit = SPLIT
) -> list[dict[str, object]]:
    """The raw rows that the source makes of the lines, in an order that does not depend on threads."""
    source = OnlineRetailSource(write_transactions(folder, lines), split, sampling)
    with temporary_database(folder, "200MB", 1) as connection:
        rows = source.read(connection, schema(), silent).rows
        found = fetch(connection, rows).to_pylist()
    return sorted(found, key=lambda row: (row["split"], row["query"], -row["label"], row["item_id"]))
