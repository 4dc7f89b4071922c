"""Rows with lists that belong together, as they come and as a plain reader in Python would encode them."""

import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from torch import Tensor

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import Vocabulary

VOCABULARIES = {
    "user_id": Vocabulary.of("user_id", [7, 8]),
    "item_id": Vocabulary.of("item_id", ["mug", "lamp"]),
    "shop": Vocabulary.of("shop", [1, 2]),
}
MOST = 3
GROUP = ("recent", "shops", "ratings", "ages")

Event = tuple[str | None, int | None, float | None, float | None]
Events = Sequence[Event] | None


def grouped_schema(ratings: dict[str, Any] | None = None, **changed: Any) -> FeatureSchema:
    """A user's last items, their shops, ratings and ages; `ratings` are keys of that feature, None removes one."""
    user, network = ["user_tower"], ["interaction_network"]
    beside = {"kind": "dense_list", "beside": "recent", "used_by": user}
    rated = {"name": "ratings", "minimum": -5, "maximum": 5, "fill": 0.5, **beside, **(ratings or {})}
    return FeatureSchema.from_document(
        {
            "name": "grouped",
            "features": [
                {"name": "ages", "holds": "age_days", "scale": "log", "fill": 0, **beside},
                {"name": "user_id", "kind": "sparse", "used_by": network},
                {"name": "item_id", "kind": "sparse", "used_by": network},
                {"name": "recent", "kind": "sparse_list", "table": "item_id", "max_length": MOST, "used_by": user},
                {"name": "shops", "kind": "sparse_list", "table": "shop", "beside": "recent", "used_by": user},
                {key: value for key, value in rated.items() if value is not None},
            ],
            "segment": "group",
            "segments": ["new", "old"],
            "label": "liked",
            "time": "at",
            "user": "user_id",
            "item": "item_id",
            **changed,
        }
    )


def grouped_contract(**how: Any) -> FeatureContract:
    """The schema with two ids in every table; `how` as of `grouped_schema`."""
    sizes = {name: len(vocabulary) for name, vocabulary in VOCABULARIES.items()}
    prints = {name: vocabulary.fingerprint for name, vocabulary in VOCABULARIES.items()}
    return FeatureContract(grouped_schema(**how), sizes, prints, scaling={}, extras=("user_key",))


def raw_table(rows: Sequence[Events], **changed: pa.Array) -> pa.Table:
    """Raw rows of these events, None for lists that are missing; numbered by `user_key`. `changed` replaces columns."""
    n = len(rows)
    lists = [[None if row is None else [event[k] for event in row] for row in rows] for k in range(4)]
    forms = (pa.string(), pa.int64(), pa.float64(), pa.float64())
    columns = {name: pa.array(values, pa.list_(form)) for name, values, form in zip(GROUP, lists, forms, strict=True)}
    columns |= {
        "user_id": pa.array([7 + k % 2 for k in range(n)]),
        "item_id": pa.array(["mug", "lamp"] * (n // 2) + ["mug"] * (n % 2)),
        "group": pa.array(["new"] * n),
        "liked": pa.array(np.arange(n) % 2),
        "at": pa.array([datetime(2011, 7, 1) + timedelta(minutes=k) for k in range(n)], pa.timestamp("us")),
        "user_key": pa.array(np.arange(n)),
        "split": pa.array(["train"] * n),
        "day": pa.array([date(2011, 7, 1)] * n),
    }
    return pa.table(columns | changed)


def naive(events: Events) -> dict[str, list[float]]:
    """The encoded lists of one row, value by value."""
    ids = {name: vocabulary.ids.to_pylist() for name, vocabulary in VOCABULARIES.items()}
    found: dict[str, list[float]] = {name: [] for name in GROUP}
    for item, shop, rating, age in list(events or [])[-MOST:]:
        found["recent"].append(ids["item_id"].index(item) + 1 if item in ids["item_id"] else 0)
        found["shops"].append(ids["shop"].index(shop) + 1 if shop in ids["shop"] else 0)
        found["ratings"].append(float(np.float32(0.5 if rating is None or not math.isfinite(rating) else rating)))
        days = 0.0 if age is None or not math.isfinite(age) else age
        found["ages"].append(float(np.float32(np.sign(days) * np.log1p(np.abs(days)))))
    return found


def lists_of_batch(batch: Batch) -> list[dict[str, list[float]]]:
    """The lists of every row of a batch, as `naive` has them."""
    by_name = {name: (batch.sparse[name].values(), batch.sparse[name].lengths()) for name in ("recent", "shops")}
    by_name |= {name: (batch.lists[name], batch.sparse["recent"].lengths()) for name in ("ratings", "ages")}
    split = {name: _split(*values) for name, values in by_name.items()}
    return [{name: split[name][row] for name in GROUP} for row in range(len(batch))]


def _split(values: Tensor, lengths: Tensor) -> list[list[float]]:
    return [part.tolist() for part in values.split(lengths.tolist())]


_NUMBERS = st.none() | st.sampled_from([math.nan, math.inf, -math.inf])
EVENT = st.tuples(
    st.sampled_from(["mug", "lamp", "never seen", None]),
    st.sampled_from([1, 2, 99, None]),
    _NUMBERS | st.floats(-5, 5),
    _NUMBERS | st.floats(-10, 1e4),
)
EVENTS = st.none() | st.lists(EVENT, max_size=MOST + 2)
"""Lists that are missing, empty, short and too long, with ids and numbers that are missing or unknown."""
