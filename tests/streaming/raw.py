"""Raw rows written by hand, as a user's own systems would write them, and the contract under which they stream."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.features.contract import FeatureContract, Scaling
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import Vocabulary
from recsys.streaming.loader import BatchStream
from recsys.streaming.rows import RawRows

VOCABULARIES = {
    "user_id": Vocabulary.of("user_id", [7, 8, 9, 2**40]),
    "item": Vocabulary.of("item", ["mug", "lamp", "tray"]),
}


def raw_contract(**changed: Any) -> FeatureContract:
    """The contract of the rows below; `changed` are keys of its schema."""
    schema = FeatureSchema.from_document(
        {
            "name": "raw_clicks",
            "features": [
                {"name": "price", "kind": "dense", "minimum": 0, "maximum": 100, "used_by": ["item_tower"]},
                {"name": "image", "kind": "dense", "width": 2, "fill": 0, "scale": "none", "used_by": ["item_tower"]},
                {"name": "user_id", "kind": "sparse", "used_by": ["user_tower"]},
                {"name": "item_id", "kind": "sparse", "used_by": ["item_tower"], "table": "item"},
                {"name": "recent", "kind": "sparse_list", "used_by": ["user_tower"], "table": "item", "max_length": 2},
            ],
            "segment": "activity",
            "segments": ["cold", "heavy"],
            "label": "clicked",
            "time": "clicked_at",
            "user": "user_id",
            "item": "item_id",
            **changed,
        }
    )
    return FeatureContract(
        schema=schema,
        table_rows={name: len(vocabulary) for name, vocabulary in VOCABULARIES.items()},
        vocabulary_fingerprints={name: vocabulary.fingerprint for name, vocabulary in VOCABULARIES.items()},
        scaling={"price": Scaling(10.0, 4.0)},
        extras=("user_key",),
    )


COLUMNS: dict[str, pa.Array] = {
    "price": pa.array([10.0, 14.0, 6.0, 10.0]),
    "image": pa.array([[0.5, 1.5], [2.5, 3.5], None, [0.0, 1.0]], pa.list_(pa.float32(), 2)),
    "user_id": pa.array([7, 2**40, 5, 9]),
    "item_id": pa.array(["mug", "pot", "tray", None]),
    "recent": pa.array([["mug", "lamp", "tray"], [], None, ["pot"]]),
    "activity": pa.array(["cold", "heavy", "cold", "cold"]),
    "clicked": pa.array([1, 0, 0, 1], pa.int8()),
    "user_key": pa.array([0, 1, 2, 3]),
}

EXPECTED = {
    "dense": [[0, 0.5, 1.5], [1, 2.5, 3.5], [-1, 0, 0], [0, 0, 1]],
    "user_id": [1, 4, 0, 3],
    "item_id": [1, 0, 3, 0],
    "recent": [[2, 3], [], [], [0]],
    "segment": [0, 1, 0, 0],
    "label": [1, 0, 0, 1],
    "user_key": [0, 1, 2, 3],
}
"""What `COLUMNS` hold once encoded, worked out by hand."""


def write_raw(path: Path, changed: Mapping[str, pa.Array | None] | None = None, **how: Any) -> Path:
    """Write the rows with some columns replaced, or left out where None; return the path."""
    columns = {name: values for name, values in {**COLUMNS, **(changed or {})}.items() if values is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **how)
    return path


def raw_stream(where: Path | str, contract: FeatureContract | None = None, **changed: Any) -> BatchStream:
    """Stream raw rows in the order of their files, 4 to a batch."""
    settings: dict[str, Any] = {
        "batch_size": 4, "seed": 1, "shuffle": False, "shuffle_buffer_rows": 8, "decode_threads": 2,
        "extras": ("user_key",), "device": torch.device("cpu"), **changed,
    }  # fmt: skip
    split = settings.pop("split", "train")
    return BatchStream(RawRows(where, VOCABULARIES), split, contract or raw_contract(), **settings)


def values_of(stream: BatchStream) -> dict[str, list[Any]]:
    """All rows of an epoch, column by column, as `EXPECTED` has them."""
    rows: dict[str, list[Any]] = {name: [] for name in EXPECTED}
    for batch in stream:
        sparse = batch.sparse.to_dict()
        rows["dense"] += batch.dense.tolist()
        for name in ("user_id", "item_id"):
            rows[name] += sparse[name].values().tolist()
        recent = sparse["recent"]
        rows["recent"] += [part.tolist() for part in torch.split(recent.values(), recent.lengths().tolist())]
        rows["segment"] += batch.segment.tolist()
        rows["label"] += batch.label.tolist()
        rows["user_key"] += batch.extra["user_key"].tolist()
    return rows
