"""The rows of made-up raw data, as they were recorded once: a change of how they are computed changes none of them.

`recorded/` holds every column of every split. Counts, ids, lists, labels and segments are compared exactly, other
numbers to a millionth; of the numbers of queries only the order counts.
"""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.source import Source
from recsys.features.schema import load_schema
from recsys.progress import silent
from tests.datasets.archives.releases import SCHEMAS, release_source, write_100k, write_csv
from tests.datasets.made_up_shop import LINE_COLUMNS, SHOP_SPLITS, shop_lines
from tests.datasets.online_retail.shop import shop_source

RECORDED = Path(__file__).parent / "recorded"
# Users who rate in the same second, also where a split ends; a user who leaves and one who comes late.
RATINGS = [
    (user, 7 + (second + user) % 3, 1 + (second * user * user + second // 4) % 5, 880_000_000 + second)
    for second in range(60)
    for user in (1, 2, 3)
    if second < 40 or user != 2
    if second > 20 or user != 3
]


def shop(folder: Path) -> Source:
    """The shop's rows, few validation invoices among them that rank."""
    pq.write_table(pa.Table.from_pylist(shop_lines(), schema=LINE_COLUMNS), folder / "transactions.parquet")
    return shop_source(folder, SHOP_SPLITS, negatives=4, ranked=5)


def release_with_users(folder: Path) -> Source:
    return release_source(write_100k(folder / "ml", RATINGS), "movielens")


def csv_release(folder: Path) -> Source:
    return release_source(write_csv(folder / "ml", RATINGS), "movielens_csv")


def sorted_rows(source: Source, schema_name: str, scratch: Path) -> pd.DataFrame:
    """The schema's columns and the source's extras, lists as lists, in an order that does not depend on threads."""
    schema = load_schema(SCHEMAS / f"{schema_name}.yaml")
    with temporary_database(scratch, "300MB", 1) as connection:
        found = source.read(connection, schema, silent)
        features = [feature.name for feature in schema.features]
        names = [*features, schema.segment, schema.label, schema.time, "split", "day", *found.extras]
        rows = fetch(connection, found.rows.select(*dict.fromkeys(names))).to_pandas()
    if "query" in rows:
        rows["query"] = rows["query"].rank(method="dense").astype("int64")
    for name in rows:
        if rows[name].map(lambda value: isinstance(value, np.ndarray)).any():
            # A list of nothing and no list are one to the encoder.
            rows[name] = rows[name].map(lambda value: list(value) if isinstance(value, np.ndarray) else [])
        if rows[name].map(lambda value: isinstance(value, Decimal)).any():
            rows[name] = rows[name].astype("int64")
    keys = [name for name in ("split", "query", "time", schema.user, schema.item, schema.label) if name in rows]
    return rows.sort_values(keys, ignore_index=True)


@pytest.mark.parametrize(
    ("schema_name", "source"),
    [("online_retail", shop), ("movielens", release_with_users), ("movielens_csv", csv_release)],
)
def test_the_rows_are_those_that_were_recorded(
    schema_name: str, source: Callable[[Path], Source], tmp_path: Path
) -> None:
    found = sorted_rows(source(tmp_path), schema_name, tmp_path)
    recorded = pq.read_table(RECORDED / f"rows_of_{schema_name}.parquet").to_pandas()

    assert sorted(found.columns) == sorted(recorded.columns)
    assert len(found) == len(recorded)
    for name, expected in recorded.items():
        assert_equal(found[name], expected)


def assert_equal(found: pd.Series, expected: pd.Series) -> None:
    """Numbers to a millionth, and all else exactly; a missing value is one whatever it is written as."""
    if pd.api.types.is_float_dtype(expected):
        numbers = found.astype("float64").to_numpy()
        np.testing.assert_allclose(numbers, expected.astype("float64"), rtol=1e-6, atol=1e-6, err_msg=expected.name)
    else:
        assert [_plain(value) for value in found] == [_plain(value) for value in expected], expected.name


def _plain(value: object) -> object:
    if isinstance(value, list | np.ndarray):
        return list(value)
    return None if pd.isna(value) else value
