"""Spans of time as a declaration writes them: a number and a unit, such as `90d`, `12h` or `30m`."""

import re
from typing import Annotated, Any

from pydantic import PlainValidator

from recsys.features.declaration import NOT_NULL, Expected

_UNITS = {"w": 604_800_000_000, "d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000}
DAY_US = _UNITS["d"]
"""Microseconds of a day."""


def _microseconds(value: Any) -> int:
    match = re.fullmatch(r"([1-9]\d{0,5})([wdhms])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    return int(match[1]) * _UNITS[match[2]]


Duration = Annotated[
    int,
    PlainValidator(_microseconds),
    Expected("a span of time such as 90d (weeks w, days d, hours h, minutes m, seconds s)"),
    NOT_NULL,
]
"""Microseconds; 0 where it is not declared."""
