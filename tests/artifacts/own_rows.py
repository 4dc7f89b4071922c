"""A user's own table with every kind of column, prepared, and a ranker over it that was never trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.artifacts.export import export_ranker
from recsys.build import build_ranker, describe_ranker
from recsys.composition.ranker import Ranker
from recsys.config.compositions import GatedConfig
from recsys.config.networks import CrossConfig
from recsys.datasets.decode import example_rows
from recsys.datasets.encode import encode
from recsys.datasets.encoded import open_encoded
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.features.batch import Batch
from recsys.features.schema import load_schema
from recsys.streaming.loader import BatchStream
from recsys.towers.tower_spec import TowerSpec
from tests.small_model import spread_out

NETWORK = CrossConfig(
    name="cross", field_width=4, field_widths={}, hidden_widths=(8,), dropout=0.5, first_order=True, layers=2
)
COMPOSITION = GatedConfig(name="conditional", width=6, expert_hidden=(5,), head_hidden=(4,), members=1)
ROWS = 60
USER, ITEM = ["user_tower", "interaction_network"], ["item_tower", "interaction_network"]
HISTORY = {"scope": "live", "features": {"user_rows": {"kind": "count", "by": ["user_id"]}}}


def columns(rows: int = ROWS, seed: int = 0) -> dict[str, pa.Array]:
    """Columns of the files: ids near 2^60, missing ones, text to cut, a vector, and a second `price`."""
    draw = np.random.default_rng(seed)
    users, items = draw.integers(0, 7, rows), draw.integers(0, 9, rows)
    cost = np.where(draw.random(rows) < 0.2, -1.0, draw.lognormal(2, 0.5, rows))
    return {
        "customer": pa.array(2**60 + users, mask=users == 3),
        "item_id": pa.array((2**59 + items).astype(np.uint64)),
        "brand": pa.array([[None, "ä", "b\tc", "007"][item % 4] for item in items]),
        "cost": pa.array(cost),
        "price": pa.array(draw.lognormal(2, 0.5, rows)),
        "stock": pa.array(draw.integers(0, 5, rows), mask=draw.random(rows) < 0.2),
        "kinds": pa.array([["red|blue", "green", "", None][item % 4] for item in items]),
        "title": pa.array([f"The Mug No. {item}, again" for item in items]),
        "seen": pa.array([[2**59 + item, None, 2**59][: item % 4] if item != 5 else None for item in items]),
        "seen_how": pa.array([[item / 3, None, -1.0][: item % 4] if item != 5 else None for item in items]),
        "image": pa.array([[float(item), item / 7] if item != 2 else None for item in items]),
        "age": pa.array(18.0 + users),
        "bought": pa.array(draw.integers(0, 2, rows)),
        "at": pa.array(1_700_000_000 + np.arange(rows) * 3600),
        "crates": pa.array(np.arange(rows) % 5),
    }


def document(**changes: Any) -> dict[str, Any]:
    """The schema file; `changes` replace keys of its `table:` block, None removes one."""
    table: dict[str, Any] = {
        "files": "*.parquet",
        "columns": {"user_id": "customer", "price": "cost", "image": "image"},
        "missing": {"price": -1.0},
        "lists": {"kinds": {"column": "kinds", "separator": "|"}},
        "words": {"words": "title"},
        "label": "bought",
        "time": {"column": "at", "unit": "seconds"},
        "segment": {"column": "age", "bins": [20, 23]},
        "splits": {"validation_start": "2023-11-16", "test_start": "2023-11-16T12:00:00"},
        **changes,
    }
    features: list[dict[str, Any]] = [
        {"name": "user_id", "kind": "sparse", "used_by": USER},
        {"name": "item_id", "kind": "sparse", "used_by": ITEM},
        {"name": "brand", "kind": "sparse", "used_by": ITEM},
        {"name": "price", "kind": "dense", "fill": 3, "scale": "log", "used_by": ITEM},
        {"name": "stock", "kind": "dense", "fill": 0, "used_by": ITEM},
        {"name": "kinds", "kind": "sparse_list", "max_length": 3, "used_by": ITEM},
        {"name": "words", "kind": "sparse_list", "max_length": 2, "used_by": ITEM},
        {"name": "seen", "kind": "sparse_list", "max_length": 3, "table": "item_id", "used_by": USER},
        {"name": "seen_how", "kind": "dense_list", "beside": "seen", "fill": 0.5, "used_by": ["user_tower"]},
        {"name": "image", "kind": "dense", "width": 2, "fill": 0, "used_by": ITEM},
    ]
    if table.get("history"):
        features += [{"name": "user_rows", "kind": "dense", "used_by": USER}]
    features += [{"name": name, "kind": "dense", "used_by": ITEM} for name in table.get("derive", ())]
    return {
        "name": "shop",
        "segment": "activity",
        "segments": ["new", "light", "heavy"],
        "label": "label",
        "time": "time",
        "user": "user_id",
        "item": "item_id",
        "features": features,
        "table": {key: value for key, value in table.items() if value is not None},
    }


class OwnRows:
    """The files, what `encode` made of them, and an exported ranker."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.table = pa.table(columns())
        self.schema_path, self.folder = root / "schema.yaml", root / "model"
        # Every JSON text is YAML.
        self.schema_path.write_text(json.dumps(document(**changes)), encoding="utf-8")
        (root / "raw").mkdir()
        pq.write_table(self.table, root / "raw" / "rows.parquet")
        schema = load_schema(self.schema_path)
        self.layout = load_table_layout(self.schema_path, schema)
        encode(TableSource(root / "raw", self.layout), schema, root / "rows", memory_limit="200MB", threads=1)
        self.data = open_encoded(root / "rows")
        self.contract = self.data.contract
        self.vocabularies = {table: self.data.vocabulary(table) for table in self.contract.table_rows}
        spec = TowerSpec.two_tower(schema, width=4, table_dimension=4, hidden_widths=[6])
        self.ranker: Ranker = build_ranker(NETWORK, COMPOSITION, spec, self.contract, seed=1)
        spread_out(self.ranker)
        self.ranker.eval()
        self.example: pd.DataFrame = example_rows(self.data, "test", self.layout)
        export_ranker(
            self.folder,
            weights=self.ranker.state_dict(),
            description=describe_ranker(NETWORK, COMPOSITION, spec),
            rebuild="recsys.build:rebuild_ranker",
            contract=self.contract,
            vocabularies=self.vocabularies,
            example=self.example,
            table=self.schema_path,
        )

    def prepared_batches(self) -> dict[str, Batch]:
        """Each split as evaluation reads it: the encoded rows, in the order of the files."""
        return {split: self._whole(split) for split in ("train", "validation", "test")}

    def prepared_scores(self) -> np.ndarray:
        """Each row's probability as evaluation gives it, in the order of the files."""
        with torch.no_grad():
            return np.concatenate(
                [self.ranker(batch).double().sigmoid().numpy() for batch in self.prepared_batches().values()]
            )

    def parts(self) -> list[pa.Table]:
        """The files' rows cut where the splits are."""
        sizes = [self.data.rows(split) for split in ("train", "validation", "test")]
        starts = [0, sizes[0], sizes[0] + sizes[1]]
        return [self.table.slice(start, size) for start, size in zip(starts, sizes, strict=True)]

    def _whole(self, split: str) -> Batch:
        (batch,) = BatchStream(
            self.data.root,
            split,
            self.contract,
            batch_size=ROWS,
            seed=0,
            shuffle=False,
            shuffle_buffer_rows=ROWS,
            decode_threads=1,
            device=torch.device("cpu"),
        )
        return batch
