"""A user's own table: a few hundred clicks of a made-up shop, its schema file, and the overrides to train on it."""

import copy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import yaml

ROWS, USERS, ITEMS = 400, 25, 20
# One pass of five steps makes no good tower, but a whole one.
PRETRAIN = [
    "tower.width=4",
    "tower.table_dimension=4",
    "tower.hidden_widths=[16]",
    "tower.epochs=1",
    "tower.batch_size=64",
]
SCHEMA: dict[str, Any] = {
    "name": "shop",
    "segment": "segment",
    "segments": ["phone", "desktop"],
    "label": "label",
    "time": "time",
    "user": "user_id",
    "item": "item_id",
    "features": [
        {"name": "user_id", "kind": "sparse", "used_by": ["user_tower", "interaction_network"]},
        {
            "name": "age",
            "kind": "dense",
            "minimum": 0,
            "maximum": 120,
            "used_by": ["user_tower", "interaction_network"],
        },
        {"name": "item_id", "kind": "sparse", "used_by": ["item_tower", "interaction_network"]},
        {
            "name": "price",
            "kind": "dense",
            "fill": 1.0,
            "scale": "log",
            "used_by": ["item_tower", "interaction_network"],
        },
    ],
    "table": {
        "files": ["clicks.parquet"],
        "label": "clicked",
        "time": {"column": "when", "unit": "timestamp"},
        "segment": {"column": "device"},
        "splits": {"validation_start": "2024-03-15", "test_start": "2024-03-18"},
    },
}


def clicks() -> dict[str, list[Any]]:
    """The table's columns: 20 days of March 2024, 20 rows a day; the label leans on the item and the device."""
    draw = np.random.default_rng(5)
    users, items = draw.integers(0, USERS, ROWS), draw.integers(0, ITEMS, ROWS)
    chance = 1 / (1 + np.exp(-((items % 5) - 2.0) * np.where(users % 2, 1.0, 0.3)))
    return {
        "user_id": users.tolist(),
        "age": (18.0 + users).tolist(),
        "item_id": items.tolist(),
        "price": (1.0 + items).tolist(),
        "device": np.where(users % 2, "phone", "desktop").tolist(),
        "clicked": (draw.random(ROWS) < chance).astype(int).tolist(),
        "when": [datetime(2024, 3, 1) + timedelta(days=row // 20, minutes=row) for row in range(ROWS)],
    }


class OwnTable:
    """A folder with the shop's files and schema, changed as a test wants, and the command line's words for it."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw, self.schema_path = root, root / "my data", root / "shop.yaml"
        self.raw.mkdir(parents=True)
        self.columns: dict[str, Any] = clicks()
        self.schema = copy.deepcopy(SCHEMA)
        self.write()

    def write(self, name: str = "clicks.parquet") -> Path:
        """Write the schema file, and the columns as one file."""
        self.schema_path.write_text(yaml.safe_dump(self.schema, allow_unicode=True), encoding="utf-8")
        return self.write_rows(name, self.columns)

    def write_vectors(self, ids: list[Any], vectors: list[list[float]]) -> list[str]:
        """Write vectors made elsewhere; return the overrides that import them in place of pre-training a tower."""
        path = self.root / "vectors.parquet"
        pq.write_table(pa.table({"id": ids, "vector": vectors}), path)
        return ["tower=title_vectors", f"tower.vectors={path}", "tower.id_column=id", "tower.width=4"]

    def write_rows(self, name: str, columns: dict[str, Any]) -> Path:
        """Write columns as a file of the raw folder, Parquet or CSV as the name says."""
        path, rows = self.raw / name, pa.table(columns)
        if path.suffix == ".csv":
            pc.write_csv(rows, path)
        else:
            pq.write_table(rows, path)
        return path

    @property
    def words(self) -> list[str]:
        """Overrides that train on this table within a second or two, with all output below the root.

        Those of the tower are apart, in `PRETRAIN` and `write_vectors`.
        """
        return [
            "data=table",
            f"data.schema_path={self.schema_path}",
            f"data.raw={self.raw}",
            "experiment=smoke",
            *(f"runtime.{name}={self.root}/{name}" for name in ("runs", "encoded", "towers")),
            "runtime.device=cpu",
            "runtime.threads=1",
            "training.batch_size=64",
            "network.field_width=4",
            "network.hidden_widths=[8]",
            "tracking.system_metrics=false",
        ]
