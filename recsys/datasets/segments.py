"""User segments from past activity: how much the user had done before the row's time, never after it.

A segment that counted later activity would tell the model which users come back.
"""

import itertools
from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from recsys.errors import UsageError

ACTIVITY_SEGMENTS: Mapping[str, int] = {"new": 0, "light": 1, "regular": 4, "heavy": 16}
"""Segment -> the fewest earlier purchases (invoices, sessions) that put a user into it."""


def earlier_count(user: ir.Column, time: ir.Column) -> ir.IntegerColumn:
    """Number of the user's rows at strictly earlier times; rows of the same time do not see each other."""
    return ibis.rank().over(group_by=user, order_by=time)


def segment_by_activity(earlier: ir.IntegerValue, lower_bounds: Mapping[str, int]) -> ir.StringValue:
    """Name the segment of each count of earlier activity.

    Args:
        lower_bounds: segment -> its smallest count, rising, the first 0.

    Raises:
        UsageError: the bounds do not begin at 0 or do not rise.
    """
    bounds = list(lower_bounds.values())
    if not bounds or bounds[0] != 0 or any(low >= high for low, high in itertools.pairwise(bounds)):
        raise UsageError(
            f"Segments by activity begin at {dict(lower_bounds)}; expected the first at 0 and each above the one "
            "before it."
        )
    falling = list(lower_bounds.items())[::-1]
    return ibis.cases(*((earlier >= bound, name) for name, bound in falling), else_=ibis.null("string"))
