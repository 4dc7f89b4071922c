"""Events that bring their labels, read as choices of users: which were chosen, by whom, out of what."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config.compose import compose_config
from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.event_tables import read_events
from recsys.datasets.labelled_queries import labelled_choices
from recsys.datasets.query_tables import ITEM, QUERY
from recsys.datasets.source import SPLIT
from recsys.datasets.table_layout import load_table_layout
from recsys.features.schema import load_schema
from recsys.progress import silent
from recsys.run import train
from recsys.run.folder import new_run
from tests.datasets.small_table import SCHEMA, feature

DAY = 86_400
TABLE = {
    "files": "*.parquet",
    "label": "stars > 3",
    "time": {"column": "at", "unit": "seconds"},
    "segment": {"column": "age", "bins": [30]},
    "splits": {"validation_start": "1970-01-08", "test_start": "1970-01-10"},
    "query": {"next": "event"},
    "candidates": {},
    "history": {
        "scope": "live",
        "features": {"liked": {"kind": "mean", "of": "label", "by": ["item_id"], "prior_rows": 2}},
    },
}


def reviews(folder: Path, number: int = 300) -> tuple[pd.DataFrame, Path]:
    """Stars for eight things, with the age of the user and the size of the thing in every row."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, number), rng.integers(0, 8, number)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "age": 20 + user, "size": item * 10.0})
    frame["stars"] = rng.integers(1, 6, number)
    frame["at"] = np.sort(rng.integers(0, 12 * DAY, number))
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), feature("size"), feature("liked", fill=0.5)]
    path = folder / "schema.yaml"
    path.write_text(json.dumps({**SCHEMA, "label": "is_liked", "features": features, "table": TABLE}), encoding="utf-8")
    (folder / "raw").mkdir()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "raw" / "reviews.parquet")
    return frame, path


def test_each_positive_is_a_query_of_its_events_split_and_knows_its_user(tmp_path: Path) -> None:
    frame, path = reviews(tmp_path)
    schema = load_schema(path)
    with temporary_database(tmp_path, "500MB", 1) as connection:
        raw = read_events(connection, tmp_path / "raw", load_table_layout(path, schema), schema, silent)
        log = labelled_choices(connection, raw, silent)
        items = log.items.select(ITEM, "item_id", "size")
        joined = log.choices.select(QUERY, ITEM).join(log.queries.select(QUERY, SPLIT, "user_id", "age"), QUERY)
        found = fetch(connection, joined.join(items, ITEM)).to_pandas()
    liked = frame[frame.stars > 3].drop_duplicates(["user_id", "item_id", "at"])
    split = pd.cut(liked["at"] / DAY, [-1, 7, 9, 99], right=False, labels=["train", "validation", "test"]).astype(str)
    expected = pd.DataFrame({SPLIT: split, "user_id": liked.user_id, "item_id": liked.item_id})

    columns = [SPLIT, "user_id", "item_id"]
    assert sorted(found[columns].to_numpy().tolist()) == sorted(expected[columns].to_numpy().tolist())
    assert (found["age"] == found["user_id"] + 20).all()
    assert (found["size"] == found["item_id"] * 10).all()


def test_labelled_events_rank_every_candidate_after_training(tmp_path: Path) -> None:
    frame, path = reviews(tmp_path)
    config = compose_config(
        [
            "data=table",
            "data.name=reviews",
            f"data.schema_path={path}",
            f"data.raw={tmp_path / 'raw'}",
            *(f"runtime.{each}={tmp_path / each}" for each in ("runs", "encoded", "towers")),
            "runtime.threads=1",
            "training.epochs=1",
            "tracking.system_metrics=false",
        ]
    )
    scores = train.run(config, new_run(config), silent).scores

    liked = frame[(frame.stars > 3) & (frame["at"] >= 9 * DAY)].drop_duplicates(["user_id", "item_id", "at"])
    # Eight candidates stand on every list of ten, so nothing is missed.
    assert scores["recall_10/all"] == scores["candidates_recall/all"] == 1
    assert scores["queries/all"] == len(liked)
    assert 0.2 < scores["mrr_10/all"] < 0.9
    assert not [name for name in scores if name.startswith("tower_")]
