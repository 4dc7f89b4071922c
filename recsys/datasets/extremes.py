"""Numbers so far out that nothing could be learned beside them, found before any of them reaches a model.

One price of 1e38 among prices of some euros is a slip, and it spoils every other row: brought to unit spread by it, all
others are one number; brought to unit spread without it, it is 1e38 spreads away and training diverges.
"""

from collections.abc import Mapping
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import approx_quantile, fetch, fetch_one
from recsys.datasets.fitting import transformed
from recsys.datasets.source import SPLIT, TRAIN
from recsys.datasets.staging import StagedRows
from recsys.errors import DataError
from recsys.features.contract import Scaling
from recsys.features.scaling import MOST_SCALED, scaled
from recsys.features.schema import Feature, FeatureSchema, Scale

# How many times as far beyond the middle eight tenths of the training values as those are wide a value may lie. Of a
# log-normal feature whose logarithm has a spread of 3, a million rows reach 35,000.
_FARTHEST = 1e6
# Values that the spread itself puts further away than this many spreads may hide the others; most features have none.
_SUSPICIOUS_SPREADS = 10


def require_no_extremes(
    connection: Backend, staged: StagedRows, schema: FeatureSchema, scaling: Mapping[str, Scaling]
) -> None:
    """Refuse dense values that lie so far from all others that a model could not read both.

    Raises:
        DataError: names the column, the value, its row and what can be declared.
    """
    for feature in schema.dense:
        if extreme := _extreme(connection, staged, feature, scaling.get(feature.name)):
            raise _refusal(connection, staged, schema, feature, *extreme)


def _extreme(
    connection: Backend, staged: StagedRows, feature: Feature, scaling: Scaling | None
) -> tuple[float, str] | None:
    """A feature's value that is too far out, and in what way; None where there is none."""
    ends = staged.ranges[feature.name]
    with np.errstate(over="ignore"):
        reached = np.abs(scaled(pa.array(ends, pa.float64()), feature, scaling).astype(np.float64))
    if reached.max() > MOST_SCALED:
        unit = "as it stands" if feature.scale is Scale.NONE else "spreads"
        return ends[int(reached.argmax())], (
            f"which is {reached.max():.3g} {unit} from where the training values lie; expected at most "
            f"{MOST_SCALED:,.0f}"
        )
    if feature.scale is Scale.NONE or reached.max() <= _SUSPICIOUS_SPREADS:
        return None
    values = transformed(staged.table[feature.name], feature)
    train = staged.table.select(SPLIT, value=values).filter(staged.table[SPLIT] == TRAIN)
    found = fetch_one(
        connection,
        train.aggregate(
            low=train.value.min(),
            high=train.value.max(),
            first=approx_quantile(train.value, 0.1),
            last=approx_quantile(train.value, 0.9),
        ),
    )
    width = found["last"] - found["first"]
    above, below = found["high"] - found["last"], found["first"] - found["low"]
    if not (width > 0 and max(above, below) > _FARTHEST * width):
        return None
    return ends[int(above > below)], (
        f"while eight tenths of the training values lie between {found['first']:.6g} and {found['last']:.6g}: "
        "beside it they would all be one number"
    )


def _refusal(
    connection: Backend, staged: StagedRows, schema: FeatureSchema, feature: Feature, value: float, what: str
) -> DataError:
    table = staged.table
    shown = {"split": table[SPLIT], **{name: table[name] for name in (schema.user, schema.item, schema.time)}}
    rows = table.filter(table[feature.name] == ibis.literal(value, type=table[feature.name].type()))
    found = fetch(connection, rows.select(**shown).limit(1)).to_pylist()
    where = f" (a row of {_row(found[0])})" if found else " (its `fill`)"
    side = "maximum" if value > 0 else "minimum"
    return DataError(
        f"Column {staged.shown_name(feature.name)} holds {value:.6g}{where}, {what}. Mend the row; or give the feature "
        f"a `{side}:` in schema `{schema.name}`, with `invalid: {{{feature.name}: clip}}` to take such values to it "
        "or `drop` to leave out their rows"
        + ("." if feature.scale is Scale.LOG else "; or `scale: log`, if such values are meant.")
    )


def _row(found: dict[str, Any]) -> str:
    split, *others = found.items()
    return ", ".join([f"split `{split[1]}`", *(f"{name} {value}" for name, value in others)])
