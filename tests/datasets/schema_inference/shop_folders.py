"""Folders of files that nobody has declared, with the habits of real ones, and what `init` makes of them."""

import csv
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from recsys.datasets.schema_inference.event_roles import Settled
from recsys.datasets.schema_inference.first_schema import FirstSchema, first_schema
from recsys.progress import silent

SALES = ("customer", "sku", "qty", "paid", "when")


def inferred(folder: Path, **settled: str) -> FirstSchema:
    """The first schema of a folder or file."""
    return first_schema(folder, Settled(**settled), "shop", "1GB", 1, silent)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), delimiter: str = ",") -> None:
    """Write rows as a CSV file, its columns in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or [*rows[0]], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def ugly_shop(folder: Path) -> Path:
    """Sales in three files of different column order and two zones, products behind semicolons, users that repeat."""
    draw = random.Random(0)
    users, skus = [f"{number:06d}" for number in range(1, 61)], [f"{number:05d}" for number in range(1, 41)]
    start = datetime(2024, 1, 1)
    sales = [
        {
            "customer": user,
            "sku": draw.choice(skus),
            "qty": draw.randint(1, 4),
            "paid": f"{draw.choice([3, 1500]) * (1 + draw.random()):,.2f}",
            "when": f"{start + timedelta(minutes=draw.randrange(300 * 1440))}{draw.choice(['+01:00', 'Z'])}",
        }
        for user in users
        for _ in range(draw.randint(2, 12))
    ]
    orders = (SALES, SALES[::-1], ("qty", "customer", "when", "sku", "paid"))
    for number, (name, columns) in enumerate(zip(("jan", "may", "sep"), orders, strict=True)):
        write_csv(folder / "sales" / f"sales_{name}.csv", sales[number::3], columns)
    people = [{"customer": user, "city": draw.choice(["Leeds", "York"]), "signed up": "24/12/2011"} for user in users]
    write_csv(folder / "users.csv", [*people, *({**one, "city": "Bath"} for one in people[:5])])
    products = [
        {
            "SKU": sku,
            "Product Name": f"{draw.choice(['Blue', 'Red'])} lamp no {number}",
            "list price": f"{draw.choice([3, 1200]) + number:,.2f}",
            "department": draw.choice(["home", "garden", "office", "kids"]),
            "tags": "|".join(draw.sample(["wood", "steel", "sale"], 2)),
        }
        for number, sku in enumerate(skus)
    ]
    write_csv(folder / "products.csv", products, delimiter=";")
    return folder


def reviews(folder: Path, time_format: str = "%d/%m/%Y %H:%M") -> Path:
    """One file of reviewer, product, stars and time."""
    draw, start = random.Random(1), datetime(2024, 1, 1)
    rows = [
        {
            "reviewer": f"R{draw.randint(1, 60)}",
            "product": f"P{draw.randint(1, 30)}",
            "stars": draw.choice([1, 2, 3, 4, 4, 5, 5]),
            "time": f"{start + timedelta(minutes=draw.randrange(200 * 1440)):{time_format}}",
        }
        for _ in range(600)
    ]
    write_csv(folder / "reviews.csv", rows)
    return folder / "reviews.csv"
