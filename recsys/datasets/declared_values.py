"""Values that a schema file declares ("-1 means unknown"), compared with a column in the column's own type.

As text -1 is not "-1.0", nor `True` "true"; as numbers and truth values they are what was meant.
"""

import datetime
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from recsys.datasets.database import is_moment, is_nothing, utc_without_zone
from recsys.errors import DataError

Declared = str | int | float | datetime.date
"""What YAML has for one value; truth values are whole numbers and times are dates to Python."""

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}

# YAML turns these words, unless they stand in quotation marks, into truth values, also where they were meant as text.
_WORDS = {True: ("true", "yes", "on"), False: ("false", "no", "off")}


def equals(column: ir.Value, declared: Declared, where: str) -> ir.BooleanValue:
    """Whether each row of `column` holds the declared value; null where the row holds none.

    Args:
        where: the files, the column and the key that declares the value, for the message.

    Raises:
        DataError: no column of this type can hold the value.
    """
    return compared(column, "==", declared, where)


def compared(column: ir.Value, comparison: str, declared: Declared, where: str) -> ir.BooleanValue:
    """Whether each row of `column` stands in one of `COMPARISONS` to the declared value; see `equals`."""
    form, compare = column.type(), COMPARISONS[comparison]
    is_order = comparison not in ("==", "!=")
    if is_nothing(form):
        return ibis.null("boolean")
    if form.is_string() and isinstance(declared, bool) and not is_order:
        is_word = column.strip().lower().isin(_WORDS[declared])
        return is_word if comparison == "==" else ~is_word
    value = _in_type(declared, form, is_order)
    if value is None:
        raise DataError(f"{where} has type {form}, which cannot hold the declared value {declared!r}{_advice(form)}.")
    return compare(utc_without_zone(column) if form.is_timestamp() or form.is_unknown() else column, value)


def _in_type(declared: Declared, form: dt.DataType, is_order: bool) -> ir.Scalar | None:
    """The declared value as one of the type; None where there is none."""
    if form.is_string():
        # Which of two texts that stand for numbers is the greater is no question of letters.
        return ibis.literal(str(declared)) if not is_order or _number(declared) is None else None
    if is_moment(form):
        moment = _moment(declared)
        if form.is_date() and moment is not None and (is_order or moment.time() == datetime.time()):
            return ibis.literal(moment.date()) if moment.time() == datetime.time() else ibis.timestamp(moment)
        return None if moment is None or form.is_date() else ibis.timestamp(moment)
    if form.is_boolean():
        truth = _truth(declared)
        return None if truth is None else ibis.literal(truth)
    number = _number(declared)
    if number is None or not (form.is_integer() or form.is_floating() or form.is_decimal()):
        return None
    if form.is_floating():
        is_too_large = form.is_float32() and number.is_finite() and abs(number) > Decimal("3.4028234663852886e38")
        return None if is_too_large else ibis.literal(float(number), type=form)
    return _exact(number, form, is_order)


def _exact(number: Decimal, form: dt.DataType, is_order: bool) -> ir.Scalar | None:
    """A number as one of an integer or decimal type; in an order also one that lies between two of them."""
    try:
        fits = number.is_finite() and number == number.quantize(Decimal(1).scaleb(-getattr(form, "scale", 0) or 0))
    except InvalidOperation:
        fits = False
    if form.is_integer() and fits:
        bounds = form.bounds
        fits = bounds.lower <= int(number) <= bounds.upper
        if fits:
            return ibis.literal(int(number), type=form)
    elif fits:
        return ibis.literal(number, type=form)
    return ibis.literal(float(number)) if is_order else None


def _number(declared: Declared) -> Decimal | None:
    if isinstance(declared, datetime.date):
        return None
    try:
        return Decimal(int(declared) if isinstance(declared, bool) else str(declared).strip())
    except InvalidOperation:
        return None


def _truth(declared: Declared) -> bool | None:
    if isinstance(declared, str):
        known = {**dict.fromkeys(_WORDS[True], True), **dict.fromkeys(_WORDS[False], False), "1": True, "0": False}
        return known.get(declared.strip().lower())
    return bool(declared) if declared in (0, 1) else None


def _moment(declared: Declared) -> datetime.datetime | None:
    """A date or time, or the text of one, as a time without zone in UTC."""
    try:
        if not isinstance(declared, str | datetime.date):
            return None
        moment = datetime.datetime.fromisoformat(str(declared).strip())
    except ValueError:
        return None
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _advice(form: dt.DataType) -> str:
    if form.is_boolean():
        return "; expected true or false"
    if is_moment(form):
        return "; expected a date or time such as 2011-07-01"
    if form.is_string():
        return "; expected text, in quotation marks, or a column of numbers in the files"
    if form.is_numeric():
        return "; expected a number of this type"
    return "; expected a column of text, numbers, truth values or times"
