"""The functions that an expression over columns may call, each with what it takes and how Ibis computes it.

All are functions of their arguments alone, and none raises for any value: where a result is not defined, it is null.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from inspect import Parameter, Signature
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from recsys.datasets.database import epoch_us

_SECOND, _DAY = 1e6, 86_400e6  # microseconds


class Kind(StrEnum):
    """What an argument is: a value of the row, or a constant that must be written out."""

    ANY = "a value"
    NUMBER = "a number"
    TEXT = "text"
    FLAG = "true or false"
    TIME = "a time"
    LIST = "a list"
    TEXT_OR_LIST = "text or a list"
    TEXT_OR_NUMBER = "text or a number"
    WHOLE_CONSTANT = "a whole number, written out"
    NUMBER_CONSTANT = "a number, written out"
    TEXT_CONSTANT = "text in quotation marks"
    PATTERN = "a regular expression in quotation marks"

    @property
    def is_constant(self) -> bool:
        """Whether it reaches the function as a value of Python rather than as a column."""
        return self in (Kind.WHOLE_CONSTANT, Kind.NUMBER_CONSTANT, Kind.TEXT_CONSTANT, Kind.PATTERN)

    def admits(self, kind: "Kind") -> bool:
        """Whether a value of `kind` may stand where this one is expected."""
        either = {Kind.TEXT_OR_LIST: (Kind.TEXT, Kind.LIST), Kind.TEXT_OR_NUMBER: (Kind.TEXT, Kind.NUMBER)}
        return self in (kind, Kind.ANY) or kind in either.get(self, ())


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        takes: its arguments; the last `optional` of them may be left out, and the last `repeats` any number of times.
        build: the arguments as Ibis has them -> the result; constants come as values of Python.
        copies: how often the SQL that is made holds an argument; None: twice for each of the arguments.
        are_alike: the arguments are brought to one type first.
        may_grow: each character of the text may become as many as the last argument has.
    """

    takes: tuple[Kind, ...]
    build: Callable[..., ir.Value]
    optional: int = 0
    repeats: bool = False
    copies: int | None = 1
    are_alike: bool = False
    may_grow: bool = False

    def kinds(self, count: int) -> tuple[Kind, ...] | None:
        """What each of `count` arguments must be; None where it does not take that many."""
        if self.repeats and count > len(self.takes):
            return (*self.takes, *[self.takes[-1]] * (count - len(self.takes)))
        return self.takes[:count] if len(self.takes) - self.optional <= count <= len(self.takes) else None


def finite(value: ir.Value) -> ir.Value:
    """The value, or null in place of NaN and the infinities."""
    # DuckDB holds NaN to be the greatest number and equal to itself, so a comparison with it would be true.
    return _isfinite(value).ifelse(value, ibis.null(value.type())) if value.type().is_floating() else value


def whole(value: ir.Value) -> ir.Value:
    """A computed whole number, or null where it is beyond 64 bits."""
    return _try(value)


def _builtin(name: str, takes: Sequence[dt.DataType], returns: dt.DataType) -> Callable[..., ir.Value]:
    """DuckDB's own function of that name."""

    def called() -> Any: ...

    called.__name__ = called.__qualname__ = name
    names = [Parameter(f"argument_{place}", Parameter.POSITIONAL_OR_KEYWORD) for place in range(len(takes))]
    called.__signature__ = Signature(names)  # type: ignore[attr-defined]
    builtin: Callable[..., ir.Value] = ibis.udf.scalar.builtin(called, signature=(tuple(takes), returns))
    return builtin


_isfinite = _builtin("isfinite", [dt.float64], dt.boolean)
_try = _builtin("try", [dt.int64], dt.int64)
_pow = _builtin("pow", [dt.float64, dt.float64], dt.float64)
_sqrt = _builtin("sqrt", [dt.float64], dt.float64)
_round = _builtin("round", [dt.float64, dt.int32], dt.float64)
_from = _builtin("substr", [dt.string, dt.int64], dt.string)
_from_to = _builtin("substr", [dt.string, dt.int64, dt.int64], dt.string)
_regexp_extract_all = _builtin("regexp_extract_all", [dt.string, dt.string, dt.int32], dt.Array(dt.string))


def _of_float(name: str) -> Callable[[ir.Value], ir.Value]:
    function = _builtin(name, [dt.float64], dt.float64)
    return lambda number: function(number.cast("float64"))


def _of_positive(name: str) -> Callable[[ir.Value], ir.Value]:
    function = _builtin(name, [dt.float64], dt.float64)

    def build(number: ir.Value) -> ir.Value:
        return (number > 0).ifelse(function(number.cast("float64")), ibis.null("float64"))

    return build


def _part_of_time(name: str) -> Callable[[ir.Value], ir.Value]:
    return _builtin(name, [dt.timestamp], dt.int64)


def _between_times(unit: float) -> Callable[[ir.Value, ir.Value], ir.Value]:
    return lambda start, end: (epoch_us(end).cast("float64") - epoch_us(start).cast("float64")) / unit


def _square_root(number: ir.Value) -> ir.Value:
    return (number >= 0).ifelse(_sqrt(number.cast("float64")), ibis.null("float64"))


def _power(base: ir.Value, exponent: ir.Value) -> ir.Value:
    return finite(_pow(base.cast("float64"), exponent.cast("float64")))


def _absolute(number: ir.Value) -> ir.Value:
    return whole(number.abs()) if number.type().is_integer() else number.abs()


def _rounded(number: ir.Value, digits: int = 0) -> ir.Value:
    return _round(number.cast("float64"), digits)


def _sign(number: ir.Value) -> ir.Value:
    # DuckDB's own is 0 for NaN.
    return finite(number).sign().cast("int64")


def _bin(number: ir.Value, *edges: float) -> ir.Value:
    number = finite(number)
    below = [(number < edge, ibis.literal(place, "int64")) for place, edge in enumerate(edges)]
    last = (number >= edges[-1], ibis.literal(len(edges), "int64"))
    return ibis.cases(*below, last, else_=ibis.null("int64"))


def _joined(*values: ir.Value) -> ir.Value:
    joined = values[0].fill_null("")
    for value in values[1:]:
        joined = joined + value.fill_null("")
    return joined


def _length(value: ir.Value) -> ir.Value:
    return value.length().cast("int64")


def _of_substring(text: ir.Value, first: int, length: int | None = None) -> ir.Value:
    return _from(text, first) if length is None else _from_to(text, first, length)


def _extracted(text: ir.Value, pattern: str, group: int = 0) -> ir.Value:
    return text.re_extract(pattern, group)


def _all_extracted(text: ir.Value, pattern: str, group: int = 0) -> ir.Value:
    return _regexp_extract_all(text, pattern, group)


def _list_element(values: ir.Value, position: int) -> ir.Value:
    # DuckDB counts from 1, and from the end where the number is negative; Ibis counts from 0.
    return values[position - 1 if position > 0 else position] if position else ibis.null(values.type().value_type)


def _kept(values: ir.Value, first: int, last: int) -> ir.Value:
    # Ibis' slices count from 0, and cannot say all that DuckDB's do.
    form = values.type()
    return _builtin("list_slice", [form, dt.int64, dt.int64], form)(values, first, last)


_TEXT, _NUMBER, _TIME, _LIST, _ANY = Kind.TEXT, Kind.NUMBER, Kind.TIME, Kind.LIST, Kind.ANY
_WHOLE, _WORD, _PATTERN = Kind.WHOLE_CONSTANT, Kind.TEXT_CONSTANT, Kind.PATTERN
_PARTS_OF_TIME = ("year", "quarter", "month", "week", "day", "dayofweek", "dayofyear", "hour", "minute")

FUNCTIONS = {
    "abs": Function((_NUMBER,), _absolute),
    **{name: Function((_NUMBER,), _of_float(name)) for name in ("floor", "ceil", "exp")},
    **{name: Function((_NUMBER,), _of_positive(name), copies=2) for name in ("ln", "log2", "log10")},
    "sqrt": Function((_NUMBER,), _square_root, copies=2),
    "pow": Function((_NUMBER, _NUMBER), _power, copies=2),
    "round": Function((_NUMBER, _WHOLE), _rounded, optional=1),
    "sign": Function((_NUMBER,), _sign, copies=2),
    "bin": Function((_NUMBER, Kind.NUMBER_CONSTANT), _bin, repeats=True, copies=None),
    "coalesce": Function((_ANY, _ANY), lambda *values: ibis.coalesce(*map(finite, values)), 0, True, 2, True),
    "nullif": Function(
        (_ANY, _ANY), lambda value, other: finite(value).nullif(finite(other)), copies=4, are_alike=True
    ),
    "greatest": Function((_ANY, _ANY), lambda *values: ibis.greatest(*map(finite, values)), 0, True, 2, True),
    "least": Function((_ANY, _ANY), lambda *values: ibis.least(*map(finite, values)), 0, True, 2, True),
    **{name: Function((_TIME,), _part_of_time(name)) for name in _PARTS_OF_TIME},
    "seconds_between": Function((_TIME, _TIME), _between_times(_SECOND)),
    "days_between": Function((_TIME, _TIME), _between_times(_DAY)),
    **{name: Function((_TEXT,), _builtin(name, [dt.string], dt.string)) for name in ("lower", "upper", "trim")},
    "length": Function((_TEXT,), _length),
    "len": Function((Kind.TEXT_OR_LIST,), _length),
    "substr": Function((_TEXT, _WHOLE, _WHOLE), _of_substring, optional=1),
    "replace": Function((_TEXT, _WORD, _WORD), lambda text, *words: text.replace(*words), may_grow=True),
    "concat": Function((Kind.TEXT_OR_NUMBER,) * 2, _joined, repeats=True),
    "starts_with": Function((_TEXT, _WORD), lambda text, word: text.startswith(word)),
    "ends_with": Function((_TEXT, _WORD), lambda text, word: text.endswith(word)),
    "contains": Function((_TEXT, _WORD), lambda text, word: text.contains(word)),
    "regexp_matches": Function((_TEXT, _PATTERN), lambda text, pattern: text.re_search(pattern)),
    "regexp_extract": Function((_TEXT, _PATTERN, _WHOLE), _extracted, optional=1),
    "regexp_extract_all": Function((_TEXT, _PATTERN, _WHOLE), _all_extracted, optional=1),
    "regexp_replace": Function((_TEXT, _PATTERN, _WORD), lambda text, *words: text.re_replace(*words), may_grow=True),
    "string_split": Function((_TEXT, _WORD), lambda text, separator: text.split(separator)),
    "list_sort": Function((_LIST,), lambda values: values.sort()),
    # In rising order: DuckDB's own may give any, and another one each time.
    "list_distinct": Function((_LIST,), lambda values: values.unique().sort(), copies=3),
    "list_contains": Function((_LIST, _ANY), lambda values, value: values.contains(value), copies=2),
    "list_extract": Function((_LIST, _WHOLE), _list_element),
    "list_slice": Function((_LIST, _WHOLE, _WHOLE), _kept),
}
"""By name, in lower case."""
