"""How values are written that are text: as times of one form, as numbers with commas or signs, as lists."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?(Z|UTC|[+-]\d{2}(:?\d{2})?))?)?")
_DAYS = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%m.%d.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d", "%d/%m/%y"),
    *("%m/%d/%y", "%d.%m.%y", "%d %b %Y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%m %d, %Y"),
)
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_PLAIN = re.compile(r"[+-]?\d+(\.\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")
_SIGNS = "$€£¥%"
_SEPARATORS = "|;,"
# Since 2000-01-01 to 2100-01-01, in seconds.
_EPOCH = (0.9e9, 4.1e9)
_OLDEST_EPOCH = 2e8


@dataclass(frozen=True)
class WrittenTime:
    """How times are written.

    Attributes:
        unit, format: as a declaration has them.
        zoned: the share of values that name their zone.
        other_format: another one that reads all of the values as well; empty: there is none.
    """

    unit: str
    format: str = ""
    zoned: float = 0.0
    other_format: str = ""


def written_time(values: Sequence[str]) -> WrittenTime | None:
    """The form in which all of some texts are times; None where there is none.

    Of two that fit, the one that has the day first is taken, and the other one said.

    >>> written_time(["24/12/2011 08:26", "1/12/2011 09:00"])
    WrittenTime(unit='timestamp', format='%d/%m/%Y %H:%M', zoned=0.0, other_format='')
    """
    if not values:
        return None
    if all(_ISO.fullmatch(value.strip()) for value in values):
        return WrittenTime("timestamp", zoned=sum(_names_zone(value) for value in values) / len(values))
    first = values[0].strip()
    near = [f"{day}{hour}" for day in _DAYS for hour in _HOURS if _reads(first, f"{day}{hour}")]
    fitting = [form for form in near if all(_reads(value.strip(), form) for value in values)]
    if not fitting:
        return None
    return WrittenTime("timestamp", format=fitting[0], other_format=fitting[1] if len(fitting) > 1 else "")


def epoch_unit(low: float, high: float) -> str:
    """The unit in which numbers of this range are times since 1970; empty where they are none.

    >>> epoch_unit(874724710, 893286638), epoch_unit(1.6e12, 1.7e12), epoch_unit(1, 20000)
    ('seconds', 'ms', '')
    """
    for unit, size in (("seconds", 1), ("ms", 1000), ("us", 1_000_000)):
        if _OLDEST_EPOCH * size <= low and _EPOCH[0] * 0.5 * size <= high <= _EPOCH[1] * size:
            return unit
    return ""


def number_of(name: str, odd: Sequence[str], values: Sequence[str]) -> str:
    """The expression that makes numbers of text such as `1,234.50`, `12,50` or `$9.99`; empty where none does.

    Args:
        odd: the values that are no plain numbers; values: some of all.

    >>> number_of("price", ["1,234.50"], ["1,234.50", "12"])
    "cast(replace(price, ',', '') as double)"
    >>> number_of("price", ["12,5"], ["12,5", "1.200,75"])
    "cast(replace(replace(price, '.', ''), ',', '.') as double)"
    """
    texts = [value.strip() for value in {*odd, *values}]
    signs = [sign for sign in _SIGNS if any(sign in text for text in texts)]
    inner = name
    for sign in signs:
        inner, texts = f"replace({inner}, '{sign}', '')", [text.replace(sign, "").strip() for text in texts]
    if not odd or not texts or not all(texts):
        return ""
    if all(_PLAIN.fullmatch(text) for text in texts):
        return f"cast({inner} as double)"
    if all(_PLAIN.fullmatch(text) or _THOUSANDS.fullmatch(text) for text in texts):
        return f"cast(replace({inner}, ',', '') as double)"
    if all(_DECIMAL_COMMA.fullmatch(text) for text in texts):
        has_thousands = any("." in text for text in texts)
        inner = f"replace({inner}, '.', '')" if has_thousands else inner
        return f"cast(replace({inner}, ',', '.') as double)"
    return ""


def separator_of(values: Sequence[str]) -> str:
    """The character that parts the elements of lists written as text; empty where there are none.

    >>> separator_of(["Action|Comedy", "Drama", "Comedy|Drama", "Action"]), separator_of(["red", "blue"])
    ('|', '')
    """
    for separator in _SEPARATORS:
        having = [value for value in values if separator in value]
        parts = [part.strip() for value in values for part in value.split(separator)]
        # Lists repeat their elements, while sentences that hold a comma seldom repeat what stands between two.
        if len(having) >= 0.2 * len(values) and len(having) > 1 and len(set(parts)) <= 0.5 * len(parts):
            return separator
    return ""


def _names_zone(value: str) -> bool:
    return bool(re.search(r"[ZU+-]", value.strip()[11:]))


def _reads(value: str, form: str) -> bool:
    with suppress(ValueError):
        datetime.strptime(value, form)
        return True
    return False
