"""Later transactions never change an earlier row."""

import datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datasets.online_retail.shop import line, read_rows

DAYS = st.integers(1, 31)
LINES = st.lists(
    st.builds(
        lambda invoice, code, day, hour, price: line(
            # An invoice belongs to one customer and one time, as in the shop.
            f"{day:02d}{hour}{invoice}",
            f"1000{code}",
            f"01-{day:02d} {hour:02d}:00",
            invoice,
            price=float(price),
            title=f"title {code} {price}",
        ),
        st.integers(1, 4),
        st.integers(0, 6),
        DAYS,
        st.integers(8, 9),
        st.integers(1, 5),
    ),
    min_size=5,
    max_size=40,
)
HISTORY = [line("0", "10000", "01-01 07:00", 1), line("1", "10001", "01-01 07:00", 2)]
# Numbers of invoices count what exists, so they may shift; everything that a model or a metric sees may not.
NUMBERS = {"query"}


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, cut=st.integers(11, 30))
def test_rows_of_a_day_are_the_same_with_and_without_what_came_later(tmp_path_factory, lines, cut):
    end_of_day = datetime.datetime(2011, 1, cut, 8, 30)
    past = [row for row in lines if row["invoice_date"] <= end_of_day]

    with_future = read_rows(tmp_path_factory.mktemp("all"), HISTORY + lines)
    without = read_rows(tmp_path_factory.mktemp("past"), HISTORY + past)

    seen = [row for row in with_future if row["time"] <= end_of_day and row["split"] != "ranking_validation"]
    expected = [row for row in without if row["split"] != "ranking_validation"]
    assert _comparable(seen) == _comparable(expected)


def _comparable(rows: list[dict[str, object]]) -> list[str]:
    return sorted(str({name: value for name, value in row.items() if name not in NUMBERS}) for row in rows)
