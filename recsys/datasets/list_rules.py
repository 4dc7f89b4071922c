"""What staged lists of numbers must keep to, and lists that stand beside one another."""

import math

import ibis
import ibis.expr.types as ir

from recsys.datasets.database import isfinite
from recsys.datasets.policies import Rule
from recsys.features.policy import Policy
from recsys.features.scaling import MOST_SCALED
from recsys.features.schema import Feature, FeatureSchema, Scale


def list_rules(rows: ir.Table, schema: FeatureSchema) -> list[Rule]:
    """The rules of elements that are missing or out of range, and of lists that are not of the same events."""
    lengths = {name: rows[name].length().fill_null(0) for name in schema.grouped_lists}
    rules: list[Rule] = [
        (
            feature.name,
            f"as many elements as `{feature.beside}` has in the row, null where one is not known",
            lengths[feature.name] != lengths[feature.beside],
        )
        for feature in schema.features
        if feature.beside
    ]
    for feature in schema.dense_lists:
        values = rows[feature.name]
        if feature.fill is None:
            missing = values.filter(lambda one: one.isnull() | ~isfinite(one))
            allowed = "a finite number in every place, as the feature declares no `fill`"
            rules.append((feature.name, allowed, missing.length() > 0))
        ends = _ends(feature, schema.invalid.get(feature.name))
        if not all(map(math.isinf, ends)):
            # In the column's own width: as float64 a float32 of 0.7 lies below 0.7.
            low, high = (ibis.literal(end, type=values.type().value_type) for end in ends)
            outside = values.filter(lambda one, low=low, high=high: isfinite(one) & ((one < low) | (one > high)))
            rules.append((feature.name, f"numbers in [{ends[0]:,.10g}, {ends[1]:,.10g}]", outside.length() > 0))
    return rules


def _ends(feature: Feature, policy: Policy | None) -> tuple[float, float]:
    """Between what an element must lie: in the declared range, unless that is where it is clipped to, and not far out.

    What `scale: none` leaves as it is must be of a size that a model can read.
    """
    is_clipped, is_as_is = policy is Policy.CLIP, feature.scale is Scale.NONE
    low = -math.inf if is_clipped else feature.minimum
    high = math.inf if is_clipped else feature.maximum
    if is_as_is and feature.minimum < -MOST_SCALED:
        low = -MOST_SCALED
    if is_as_is and feature.maximum > MOST_SCALED:
        high = MOST_SCALED
    return low, high
