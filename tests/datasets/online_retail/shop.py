"""A tiny shop: transactions written down by hand, and the rows that its schema file makes of them."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.archives.retail_transactions import COLUMNS
from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.source import Source
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import TableLayout
from recsys.features.column_names import OWN_PREFIX
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import FeatureSchema, load_schema
from recsys.progress import silent

SCHEMA_PATH = Path(__file__).resolve().parents[3] / "data" / "schemas" / "online_retail.yaml"
SPLITS = {
    "train_start": "2011-01-10",
    "validation_start": "2011-01-20",
    "test_start": "2011-01-25",
    "test_end": "2011-02-01",
}


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


def document_counting(*features: str) -> dict[str, Any]:
    """The document of that schema with these features alone of those that are counted from the past.

    What is derived from the others is left out with them.
    """
    document: dict[str, Any] = read_plain_yaml(SCHEMA_PATH, "Schema file")
    table = document["table"]
    history, derive = table["history"], table["derive"]
    missing = set(history["features"]) - set(features)
    missing |= {name for name, text in derive.items() if missing & set(re.findall(r"\w+", text))}
    counted = {name: history["features"][name] for name in features}
    derived = {name: text for name, text in derive.items() if name not in missing}
    document["table"] = {**table, "derive": derived, "history": {**history, "features": counted}}
    document["features"] = [each for each in document["features"] if each["name"] not in missing]
    return document


def schema_of(document: dict[str, Any]) -> FeatureSchema:
    """The schema of a document with a table block."""
    return FeatureSchema.from_document({key: value for key, value in document.items() if key != "table"})


def shop_source(
    folder: Path,
    splits: dict[str, str],
    negatives: int,
    ranked: int,
    seed: int = 0,
    document: dict[str, Any] | None = None,
) -> Source:
    """The source of the schema that ships with the project, over other days.

    Args:
        negatives: of each positive.
        ranked: how many validation invoices rank their candidates.
        document: the schema's in its place.
    """
    document = document or read_plain_yaml(SCHEMA_PATH, "Schema file")
    block = {
        **document["table"],
        "splits": splits,
        "negatives": {"per_positive": negatives, "power": 0.5, "seed": seed},
        "ranking": {"validation_queries": ranked},
    }
    return TableSource(folder, TableLayout.from_document({**document, "table": block}, schema_of(document)))


def read_rows(
    folder: Path, lines: list[dict[str, object]], splits: dict[str, str] = SPLITS, ranked: int = 1, seed: int = 0
) -> list[dict[str, object]]:
    """The raw rows that become of the lines, in an order that does not depend on threads."""
    source = shop_source(write_transactions(folder, lines), splits, 2, ranked, seed)
    with temporary_database(folder, "200MB", 1) as connection:
        rows = source.read(connection, schema(), silent).rows
        named = [name for name in rows.columns if not name.startswith(OWN_PREFIX)]
        found = fetch(connection, rows.select(named)).to_pylist()
    return sorted(found, key=lambda row: (row["split"], row["query"], -row["label"], row["item_id"]))
