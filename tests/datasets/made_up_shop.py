"""A made-up shop with the habits of a real one: what `data=online_retail` reads, always the same few hundred lines."""

import random
from datetime import datetime, timedelta

import pyarrow as pa

Line = dict[str, object]

LINE_COLUMNS = pa.schema(
    {
        "invoice": pa.string(),
        "stock_code": pa.string(),
        "description": pa.string(),
        "quantity": pa.int64(),
        "invoice_date": pa.timestamp("us"),
        "unit_price": pa.float64(),
        "customer_id": pa.int64(),
        "country": pa.string(),
    }
)
SHOP_SPLITS = {
    "train_start": "2010-12-20",
    "validation_start": "2011-02-01",
    "test_start": "2011-02-15",
    "test_end": "2011-03-01",
}

_FIRST = datetime(2010, 1, 4)
# (first day, days, invoices): a season of the year before, quiet months, then the weeks that are learnt from.
_PERIODS = ((0, 60, 24), (60, 240, 12), (300, 130, 140))
_CODES = [f"{20000 + 7 * number}{'A' if number % 6 == 5 else ''}" for number in range(32)]
_COUNTRIES = ("United Kingdom", "EIRE", "France")


def shop_lines() -> list[Line]:
    """About 600 lines of 14 months.

    Among them: repeats within a minute (other titles, prices, quantities), lines that are added to an invoice minutes
    or hours later, two invoices of a customer in one minute, guests, cancellations, prices of 0 and NaN,
    codes that are no products, products that are new that day or were not sold for months, titles that change, are
    padded or missing, and a customer who moves to another country.
    """
    rng = random.Random(7)
    lines: list[Line] = []
    number = 500000
    for first, days, invoices in _PERIODS:
        for _ in range(invoices):
            day = first + int(rng.random() * days)
            time = _FIRST + timedelta(days=day, minutes=480 + int(rng.random() * 600))
            customer = 13000 + int(34 * rng.random() ** 2)
            number += 1
            lines += _invoice(rng, str(number), time, customer, day)
            if rng.random() < 0.08:
                number += 1
                lines += _invoice(rng, str(number), time, customer, day)
    rng.shuffle(lines)
    return lines


def _invoice(rng: random.Random, invoice: str, time: datetime, customer: int, day: int) -> list[Line]:
    # In the last months a product is new every twenty days; the newest had their first season a year before.
    known = _CODES[: 12 + day // 20] if day >= 300 else _CODES[:10] + (_CODES[28:] if day < 60 else [])
    codes = [known[int(len(known) * rng.random() ** 1.5)] for _ in range(1 + int(rng.random() * 5))]
    country = _COUNTRIES[customer % 3 if day < 380 else (customer + (customer == 13001)) % 3]
    lines = [_line(rng, invoice, code, time, customer, day, country) for code in dict.fromkeys(codes)]
    if rng.random() < 0.2:
        lines.append(_line(rng, invoice, codes[0], time, customer, day, country))
    if rng.random() < 0.1:
        later = time + timedelta(minutes=3 if rng.random() < 0.7 else 200)
        lines.append(_line(rng, invoice, codes[-1], later, customer, day, country))
        lines.append(_line(rng, invoice, known[0], later, customer, day, country))
    kind = rng.random()
    if kind < 0.06:
        lines = [{**line, "customer_id": None} for line in lines]
    elif kind < 0.1:
        lines = [{**line, "invoice": f"C{invoice}", "quantity": -1} for line in lines]
    elif kind < 0.18:
        strange = {"unit_price": 0.0 if kind < 0.14 else float("nan")}
        lines.append({**_line(rng, invoice, known[1], time, customer, day, country), **strange})
    elif kind < 0.24:
        lines.append(_line(rng, invoice, "POST" if kind < 0.21 else "M", time, customer, day, country))
    return lines


def _line(rng: random.Random, invoice: str, code: str, time: datetime, customer: int, day: int, country: str) -> Line:
    colour = ("RED", "blue", "Ivory")[len(code) % 3]
    title: str | None = f"{colour} Thing no.{code[2:5]} {'LARGE' if day > 200 else 'small'}"
    if rng.random() < 0.1:
        title = None if rng.random() < 0.5 else f" {title}  "
    return {
        "invoice": invoice,
        "stock_code": code,
        "description": title,
        "quantity": 1 + int(rng.random() * 11),
        "invoice_date": time,
        "unit_price": round(0.2 + 9 * rng.random(), 2),
        "customer_id": customer,
        "country": country,
    }
