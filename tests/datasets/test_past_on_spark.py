"""The past counted on Spark is that of DuckDB, row for row; and what Spark cannot count is refused by name.

With PySpark and Java a local Spark counts; without them the forms that Spark is given are run on DuckDB, and what a
user reads who has neither is tested.
"""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config.compose import compose_config
from recsys.datasets.database import fetch, load, temporary_database
from recsys.datasets.encode import encode
from recsys.datasets.encoded import open_encoded
from recsys.datasets.on_spark.counting import past_on_spark
from recsys.datasets.on_spark.exchange import hand_over
from recsys.datasets.on_spark.refusals import require_countable
from recsys.datasets.on_spark.spark_engine import SparkSettings, spark_session
from recsys.datasets.past import (
    LABEL,
    MOMENT,
    ROW,
    PastCounter,
    PastFeature,
    PastKind,
    add_past,
    cumulative,
    range_frames,
    recent_lists,
)
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.errors import DataError, UsageError
from recsys.features.schema import load_schema
from recsys.progress import silent
from recsys.run import prepare, prepare_daily
from tests.datasets.archives.releases import SCHEMAS, release_source, write_100k
from tests.datasets.naive_past import Row
from tests.datasets.past_tables import FEATURES, HOUR, ITEM, LEFT_OUT, OF_FOLDS, SCHEMA
from tests.datasets.small_table import SCHEMA as SMALL
from tests.datasets.test_sampled_examples import IDS, IMPLICIT, purchases

LOCAL = SparkSettings("local[2]", "1GB")
needs_spark = pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None,
    reason="needs PySpark (pip install 'recsys[spark]') and a Java runtime, and one of them is missing",
)
# Small tables: what Spark does to be fast on large ones takes longer than counting.
SPARK_DEFAULTS = """
spark.sql.shuffle.partitions 1
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""


def is_countable(one: PastFeature) -> bool:
    is_odd_list = one.kind is PastKind.RECENT and (one.distinct or one.leave_one_out)
    return one.kind is not PastKind.CO_OCCURRENCE and not is_odd_list


COUNTABLE = [one for one in [*FEATURES, *OF_FOLDS, *LEFT_OUT] if is_countable(one)]
# Every kind over the whole past; of spans and folds, those that are made in another way. Each group of keys costs Spark
# a second.
OF_SPANS = ("first of two days", "last of two days", "smoothed mean out of fold", "distinct of genres out of fold")
ON_SPARK = [
    one
    for one in COUNTABLE
    if not (one.window or one.ago or one.folds or one.leave_one_out)
    or one.name in OF_SPANS
    or ("30 hours" in one.name and one.by == ("User",))
]

# One for each form that DuckDB has a word of its own for.
IN_OTHER_WORDS = [
    one
    for one in ON_SPARK
    if one.name in ("sum", "first of two days", "first of all", "items", "fractions of ages")
    or ("30 hours" in one.name and one.kind is PastKind.DISTINCT and one.by == ("User",))
]


def made_up(number: int, seed: int) -> pa.Table:
    """Rows with nulls, ties in time, letters beyond ASCII, and numbers whose sum hangs on the order of adding."""
    draw = Random(seed)

    def row(place: int) -> Row:
        return {
            ROW: place,
            MOMENT: draw.choice([None, *(draw.randint(-8, 40) * 6 * HOUR for _ in range(12))]),
            SCHEMA.names[2]: draw.random() < 0.8,
            SCHEMA.names[3]: draw.randint(1, 3),
            LABEL: draw.randint(0, 1),
            "User": draw.choice(["a", "Zoë", "日本", None]),
            ITEM: draw.choice([1, 2, 3, 4, None]),
            "genres": draw.choice([None, [], ["x"], ["x", "ÿ"], ["ÿ", None], ["x", "x", "ÿ"]]),
            "price": draw.choice([None, -0.1, 1e17 / 3, draw.random(), draw.random() * 1e6]),
            "stars": draw.choice([None, 1, 2**31 - 1]),
            "invoice": draw.choice(["i", "j", "k", None]),
        }

    return pa.Table.from_pylist([row(place) for place in range(number)], SCHEMA)


def counted_by(count: PastCounter, folder: Path, features: list[PastFeature]) -> pa.Table:
    with temporary_database(folder, "500MB", 2) as connection:
        asked, events = (load(connection, name, made_up(*of)) for name, of in (("a", (60, 0)), ("e", (150, 1))))
        return fetch(connection, count(connection, asked, events, features, silent).order_by(ROW))


@pytest.fixture
def spark_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spark-defaults.conf").write_text(SPARK_DEFAULTS)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))


@pytest.fixture
def any_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cumulative, range_frames, recent_lists):
        monkeypatch.setattr(module, "has_duckdb_words", lambda _: False)


@pytest.mark.usefixtures("any_engine")
def test_the_words_of_every_engine_give_the_rows_of_duckdb_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = counted_by(add_past, tmp_path, IN_OTHER_WORDS)
    monkeypatch.undo()

    assert other.equals(counted_by(add_past, tmp_path, IN_OTHER_WORDS))


@needs_spark
@pytest.mark.usefixtures("spark_defaults")
def test_every_kind_of_feature_on_spark_is_that_of_duckdb_row_for_row(tmp_path: Path) -> None:
    with past_on_spark(LOCAL, tmp_path) as count:
        # What was counted on Spark is read after Spark has ended.
        found = counted_by(count, tmp_path, ON_SPARK)

    assert found.equals(counted_by(add_past, tmp_path, ON_SPARK))


def digests(source: TableSource, schema: Path, folder: Path) -> dict[str, Any]:
    """The published files with their digests, and all else that the manifest says."""
    encode(source, load_schema(schema), folder, memory_limit="500MB", threads=2)
    return json.loads(open_encoded(folder).manifest.to_json())


@needs_spark
@pytest.mark.usefixtures("spark_defaults")
def test_a_packaged_schema_is_encoded_to_the_same_bytes_in_a_session_that_goes_on(tmp_path: Path) -> None:
    from pyspark.sql import SparkSession

    # As in a notebook, which has a session of its own.
    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    ratings = [(1 + n % 3, 7 + (n // 2) % 3, 1 + n * n % 5, 880_000_000 + n // 2) for n in range(40)]
    source = release_source(write_100k(tmp_path / "ml", ratings), "movielens")
    assert isinstance(source, TableSource)
    schema = SCHEMAS / "movielens.yaml"

    on_spark = digests(replace(source, spark=LOCAL), schema, tmp_path / "on_spark")
    assert session.range(3).count() == 3
    session.stop()

    assert on_spark == digests(source, schema, tmp_path / "on_duckdb")


@needs_spark
@pytest.mark.usefixtures("spark_defaults")
def test_choices_with_drawn_negatives_are_encoded_to_the_same_bytes(tmp_path: Path) -> None:
    past = {
        "seen": {"kind": "count", "by": ["user_id"]},
        "sold": {"kind": "count", "by": ["item_id"], "window": "3d", "before": "day"},
        "last_items": {"kind": "recent", "of": "item_id", "by": ["user_id"], "rows": "all", "length": 4},
    }
    listed = {
        "name": "last_items",
        "kind": "sparse_list",
        "table": "item_id",
        "max_length": 4,
        "used_by": ["user_tower"],
    }
    sold = {"name": "sold", "kind": "dense", "used_by": ["interaction_network"]}
    block = {
        **IMPLICIT,
        "files": "*.parquet",
        "time": {"column": "at", "unit": "timestamp"},
        "history": {"scope": "live", "features": past},
    }
    schema = tmp_path / "schema.yaml"
    document = {**SMALL, "features": [*IDS, listed, sold], "table": {k: v for k, v in block.items() if v is not None}}
    schema.write_text(json.dumps({**document, "label": "bought", "segments": ["new", "old"]}))
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(purchases()), tmp_path / "raw" / "rows.parquet")
    source = TableSource(tmp_path / "raw", load_table_layout(schema, load_schema(schema)))

    on_spark = digests(replace(source, spark=LOCAL), schema, tmp_path / "on_spark")

    assert on_spark == digests(source, schema, tmp_path / "on_duckdb")


def test_features_that_spark_cannot_count_are_refused_by_name_before_anything_is_read(tmp_path: Path) -> None:
    words = ["data=online_retail", f"data.raw={tmp_path}", "data.engine=spark", f"runtime.encoded={tmp_path / 'made'}"]

    with pytest.raises(UsageError) as refused:
        prepare.run(compose_config(words), silent)

    message = str(refused.value)
    assert "`recent_item_ids` (kind recent, `distinct: true`)" in message
    assert "`affinity` (kind co_occurrence)" in message
    assert "data.engine=duckdb" in message


def test_a_list_without_the_row_itself_is_refused_too() -> None:
    path = SCHEMAS / "ml_100k_random.yaml"
    layout = load_table_layout(path, load_schema(path))

    with pytest.raises(UsageError, match=r"`recent_item_ids` \(kind recent, `leave_one_out: true`\)"):
        require_countable(layout, str(path))


def test_nights_are_counted_on_duckdb(tmp_path: Path) -> None:
    words = ["data=online_retail", f"data.raw={tmp_path}", "data.engine=spark"]

    with pytest.raises(UsageError, match=r"data\.engine=spark counts whole tables.*Set data\.engine=duckdb"):
        prepare_daily.day_fingerprints(compose_config(words), silent)


def test_either_engine_finds_the_rows_that_the_other_prepared(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("1\n")
    words = ["data=movielens", f"data.raw={tmp_path}"]
    keys = {
        prepare.stage_of(compose_config([*words, f"data.engine={engine}"]), tmp_path).key
        for engine in ("duckdb", "spark")
    }
    assert len(keys) == 1


def test_without_pyspark_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.datasets.on_spark.spark_engine.find_spec", lambda _: None)

    expected = r"PySpark, which is not installed.*pip install 'recsys\[spark\]'"
    with pytest.raises(UsageError, match=expected), spark_session(LOCAL, tmp_path):
        pass


@needs_spark
def test_without_java_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    expected = r"no `java` on the PATH.*openjdk-17-jre-headless"
    with pytest.raises(UsageError, match=expected), spark_session(LOCAL, tmp_path):
        pass


def test_a_folder_that_spark_would_take_for_a_pattern_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.datasets.on_spark.spark_engine.find_spec", lambda _: True)

    with pytest.raises(UsageError, match=r"takes the folder .*a pattern"), spark_session(LOCAL, tmp_path / "all[1]"):
        pass


@pytest.mark.parametrize("form", ["TIMESTAMP_NS", "UUID", "INTEGER[][]"])
def test_a_column_of_a_type_that_spark_has_not_is_refused_by_name(tmp_path: Path, form: str) -> None:
    with temporary_database(tmp_path, "100MB", 1) as connection:
        rows = connection.sql(f"SELECT CAST(NULL AS {form}) AS odd")
        with pytest.raises(DataError, match=r"Column `the odd one` has type .*data\.engine=duckdb"):
            hand_over(connection, rows, tmp_path / "rows.parquet", {"odd": "the odd one"})
