"""Later transactions never change an earlier row."""

import datetime

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.datasets.online_retail.shop import line, read_rows

CODES = [f"1000{number}" for number in range(6)]
CUSTOMERS = [1, 2, 3]
PURCHASES = st.lists(
    st.tuples(st.sampled_from(CUSTOMERS), st.sampled_from(CODES), st.integers(1, 30), st.integers(1, 5)),
    min_size=5,
    max_size=30,
)
# Numbers of invoices count what exists, so they may shift; everything that a model or a metric sees may not.
NUMBERS = {"query"}


# Without shrinking, as each try prepares two shops: a failure shows a shop of some thirty purchases.
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(purchases=PURCHASES, cut=st.integers(11, 30))
def test_rows_are_the_same_whatever_is_bought_an_hour_later_or_after(tmp_path_factory, purchases, cut):
    # One invoice a customer and day, at 8; on the day of the cut, customer 1 buys the first two products.
    purchases = [*purchases, (1, CODES[0], 1, 1), (1, CODES[0], cut, 1), (1, CODES[1], cut, 1)]
    past = [_bought(customer, code, day, 8, price) for customer, code, day, price in purchases if day <= cut]
    later = [_bought(customer, code, cut, 9, 9) for customer in CUSTOMERS for code in [*CODES, "99999"]]
    later += [_bought(customer, code, 31, 8, 7) for customer in CUSTOMERS for code in CODES]

    without = read_rows(tmp_path_factory.mktemp("past"), past)
    with_later = read_rows(tmp_path_factory.mktemp("all"), past + later)

    assert _comparable(with_later, cut) == _comparable(without, cut)


def _bought(customer: int, code: str, day: int, hour: int, price: int) -> dict[str, object]:
    invoice, time = f"{day:02d}-{hour}-{customer}", f"01-{day:02d} {hour:02d}:00"
    return line(invoice, code, time, customer, price=float(price), title=f"title {code} at {price} zz"[: 10 + price])


def _comparable(rows: list[dict[str, object]], cut: int) -> list[str]:
    """The rows up to the cut; which validation invoices are ranked depends on the others, so those are left out."""
    end = datetime.datetime(2011, 1, cut, 8, 30)
    kept = [row for row in rows if row["time"] <= end and row["split"] != "ranking_validation"]
    assert any(row["time"].day == cut for row in kept)
    return sorted(str({name: value for name, value in row.items() if name not in NUMBERS}) for row in kept)
