"""The tree of an expression as an Ibis value: what each operator, cast and constant means over the columns of a row."""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from sqlglot import exp

from recsys.datasets.database import is_moment, is_nothing, utc_without_zone
from recsys.datasets.scalar_functions import FUNCTIONS, Kind, finite, whole
from recsys.errors import UsageError

_Operation = Callable[[ir.Value, ir.Value], ir.Value]

_ARITHMETIC: dict[type[exp.Expr], _Operation] = {
    exp.Add: lambda one, other: one + other,
    exp.Sub: lambda one, other: one - other,
    exp.Mul: lambda one, other: one * other,
    exp.Div: lambda one, other: one.cast("float64") / other.nullif(0),
    exp.Mod: lambda one, other: one % other.nullif(0),
}
_COMPARISONS: dict[type[exp.Expr], _Operation] = {
    exp.EQ: lambda one, other: one == other,
    exp.NEQ: lambda one, other: one != other,
    exp.LT: lambda one, other: one < other,
    exp.LTE: lambda one, other: one <= other,
    exp.GT: lambda one, other: one > other,
    exp.GTE: lambda one, other: one >= other,
}
_CONNECTORS: dict[type[exp.Expr], _Operation] = {
    exp.And: lambda one, other: one & other,
    exp.Or: lambda one, other: one | other,
}
OPERATORS = (*_ARITHMETIC, *_COMPARISONS, *_CONNECTORS, exp.DPipe)
"""Operators of two sides."""

_SCALARS = (Kind.NUMBER, Kind.TEXT, Kind.FLAG)
CASTS: dict[exp.DType, tuple[str, tuple[Kind, ...]]] = {
    **dict.fromkeys((exp.DType.BIGINT, exp.DType.INT), ("int64", _SCALARS)),
    **dict.fromkeys((exp.DType.DOUBLE, exp.DType.FLOAT), ("float64", _SCALARS)),
    **dict.fromkeys((exp.DType.VARCHAR, exp.DType.TEXT), ("string", (*_SCALARS, Kind.TIME))),
    exp.DType.BOOLEAN: ("boolean", _SCALARS),
    **dict.fromkeys(
        (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ, exp.DType.DATE), ("timestamp(6)", (Kind.TEXT, Kind.TIME))
    ),
}
"""What may stand behind `as` in a cast: the type that comes out, and what may be cast to it."""


def value_of(tree: exp.Expr, columns: ir.Table | Mapping[str, ir.Value], text: str, where: str) -> ir.Value:
    """Return the value of a checked tree.

    Args:
        columns: holds every column that the tree reads.
        text, where: of the expression, for messages.

    Raises:
        UsageError: a part is of a type for which what is done with it has no meaning.
    """
    value = _Values(columns, text, where).of(tree)
    return value.cast("float64") if value.type().is_null() else finite(value)


def refusal(node: exp.Expr, what: str, text: str, where: str) -> UsageError:
    """The error that says what is wrong with a part of an expression, and where the part begins."""
    starts = [int(each.meta["start"]) for each in node.walk() if "start" in each.meta]
    place = f", at character {min(starts) + 1}" if starts else ""
    part = f": `{node.sql('duckdb')[:60]}`"
    return UsageError(f"{where}: {text!r}{place}{part} {what}.")


def constant(node: exp.Expr) -> int | float | str | None:
    """The value that a number or text stands for; None for anything else, and for a number beyond 64 bits."""
    if isinstance(node, exp.Neg):
        value = constant(node.this)
        return -value if isinstance(value, int | float) else None
    if not isinstance(node, exp.Literal):
        return None
    if node.is_string:
        return str(node.this)
    with suppress(ValueError):
        return number if (number := int(node.this)) < 1 << 63 else None
    broken = float(node.this)
    return broken if math.isfinite(broken) else None


def _kind(form: dt.DataType) -> Kind | None:
    kinds = {
        Kind.NUMBER: form.is_numeric() and not form.is_boolean(),
        Kind.TEXT: form.is_string(),
        Kind.FLAG: form.is_boolean(),
        Kind.TIME: is_moment(form),
        Kind.LIST: form.is_array(),
    }
    return next((kind for kind, is_meant in kinds.items() if is_meant), None)


_EMPTY = {
    Kind.NUMBER: "float64",
    Kind.TEXT: "string",
    Kind.FLAG: "boolean",
    Kind.TIME: "timestamp(6)",
    Kind.LIST: "array<string>",
}
"""What a column that holds nulls alone counts as, by what is expected of it."""


class _Values:
    """Builds the values of one tree."""

    def __init__(self, columns: ir.Table | Mapping[str, ir.Value], text: str, where: str) -> None:
        self._columns, self._text, self._where = columns, text, where

    def of(self, node: exp.Expr) -> ir.Value:
        """The value of any node."""
        if (value := constant(node)) is not None:
            return _literal(value)
        match node:
            case exp.Paren():
                return self.of(node.this)
            case exp.Column():
                return self._column(node)
            case exp.Boolean():
                return ibis.literal(node.this)
            case exp.Null():
                return ibis.null()
            case exp.Neg():
                number = self._number(node.this)
                return whole(-number) if number.type().is_integer() else -number
            case exp.Not():
                return ~self._meant(node.this, Kind.FLAG)
            case exp.Is():
                return finite(self.of(node.this)).isnull()
            case exp.In():
                value, *words = self._alike([node.this, *node.expressions])
                return finite(value).isin(words)
            case exp.Between():
                value, low, high = map(finite, self._alike([node.this, node.args["low"], node.args["high"]]))
                return value.between(low, high)
            case exp.Case():
                return self._case(node)
            case exp.Cast():
                return self._cast(node)
            case exp.Anonymous():
                return self._call(node)
        return self._operation(node)

    def _operation(self, node: exp.Expr) -> ir.Value:
        form = type(node)
        if form in _CONNECTORS:
            return _CONNECTORS[form](self._meant(node.this, Kind.FLAG), self._meant(node.expression, Kind.FLAG))
        if form in _COMPARISONS:
            one, other = map(finite, self._alike([node.this, node.expression]))
            return _COMPARISONS[form](one, other)
        if form is exp.DPipe:
            return self._as_text(node.this) + self._as_text(node.expression)
        value = _ARITHMETIC[form](self._number(node.this), self._number(node.expression))
        return whole(value) if value.type().is_integer() else value

    def _column(self, node: exp.Expr) -> ir.Value:
        """A column in the one type of its kind: int64 or float64, UTC without zone; NaN is null."""
        value = self._columns[node.name]
        form = value.type()
        if is_moment(form):
            return utc_without_zone(value)
        if is_nothing(form):
            return ibis.null()
        if form.is_floating():
            value = value.cast("float64")
            return value.isnan().ifelse(ibis.null("float64"), value)
        if form.is_decimal():
            return value.cast("float64")
        if form.is_integer():
            # Ids of 64 bits without a sign stay what they are until something is computed from them.
            return value if form.is_uint64() else value.cast("int64")
        if _kind(form) is None:
            raise self._refusal(node, f"is of type {form}, which expressions cannot read")
        return value

    def _meant(self, node: exp.Expr, kind: Kind) -> ir.Value:
        """The value of a node that must be of a kind."""
        if kind is Kind.TIME and _is_text(node):
            return self._moment(node)
        value = self.of(node)
        if value.type().is_null():
            return value.cast(_EMPTY[kind]) if kind in _EMPTY else value
        found = _kind(value.type())
        if found is None or not kind.admits(found):
            raise self._refusal(node, f"is {found}{_mending(found, kind)}; expected {kind}")
        return value

    def _number(self, node: exp.Expr) -> ir.Value:
        value = self._meant(node, Kind.NUMBER)
        return value.try_cast("int64") if value.type().is_unsigned_integer() else value

    def _as_text(self, node: exp.Expr) -> ir.Value:
        value = self._meant(node, Kind.TEXT_OR_NUMBER)
        return value if value.type().is_string() else finite(value).cast("string")

    def _alike(self, nodes: Sequence[exp.Expr]) -> list[ir.Value]:
        """Values brought to one type: whole numbers beside broken ones, and text that says a time beside times."""
        values = [self.of(node) for node in nodes]
        kinds = [None if value.type().is_null() else _kind(value.type()) for value in values]
        kind = Kind.TIME if Kind.TIME in kinds else next(filter(None, kinds), Kind.TEXT)
        for place, node in enumerate(nodes):
            if kind is Kind.TIME and _is_text(node):
                values[place] = self._moment(node)
            elif kinds[place] not in (kind, None):
                raise self._refusal(
                    node, f"is {kinds[place]}{_mending(kinds[place], kind)}; expected {kind} as beside it"
                )
        forms = [value.type() for value in values if not value.type().is_null()]
        form = _common(forms)
        return [value if value.type() == form else value.try_cast(form) for value in values]

    def _moment(self, node: exp.Expr) -> ir.Value:
        try:
            moment = datetime.datetime.fromisoformat(node.this)
        except ValueError:
            raise self._refusal(node, "stands beside a time; expected one such as '2011-07-01 08:00'") from None
        return ibis.literal(moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment)

    def _case(self, node: exp.Expr) -> ir.Value:
        branches, default = node.args["ifs"], node.args.get("default")
        conditions = [self._meant(branch.this, Kind.FLAG) for branch in branches]
        values = self._alike([*(branch.args["true"] for branch in branches), *([default] if default else [])])
        pairs = list(zip(conditions, values, strict=False))
        return ibis.cases(*pairs, else_=values[-1] if default else ibis.null(values[0].type()))

    def _cast(self, node: exp.Expr) -> ir.Value:
        to = node.args["to"].this
        form, kinds = CASTS[to]
        value = finite(self.of(node.this))
        if value.type().is_null():
            return value.cast(form)
        if (found := _kind(value.type())) not in kinds:
            raise self._refusal(node.this, f"is {found}, which is not cast to {form}; expected {' or '.join(kinds)}")
        if _is_text(node.this) and form == _EMPTY[Kind.TIME]:
            value = self._moment(node.this)
        elif value.type() != dt.dtype(form):
            value = finite(value.try_cast(form))
        return value.truncate("D") if to is exp.DType.DATE else value

    def _call(self, node: exp.Expr) -> ir.Value:
        function, given = FUNCTIONS[node.name.lower()], node.expressions
        if function.are_alike:
            return function.build(*self._alike(given))
        arguments: list[object] = []
        for kind, argument in zip(function.kinds(len(given)) or (), given, strict=True):
            if kind.is_constant:
                arguments.append(constant(argument))
            elif kind is Kind.TEXT_OR_NUMBER:
                arguments.append(self._as_text(argument))
            else:
                arguments.append(self._meant(argument, kind))
        return function.build(*arguments)

    def _refusal(self, node: exp.Expr, what: str) -> UsageError:
        return refusal(node, what, self._text, self._where)


def _is_text(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and bool(node.is_string)


def _common(forms: Sequence[dt.DataType]) -> dt.DataType:
    """The type that values of one kind are brought to."""
    if len(set(forms)) < 2:
        return forms[0] if forms else dt.string
    if all(form.is_numeric() for form in forms):
        return dt.float64 if any(form.is_floating() for form in forms) else dt.int64
    return dt.highest_precedence(forms)


def _literal(value: int | float | str) -> ir.Value:
    # DuckDB would take a small whole number for one of 32 bits, and so its product with another.
    return (
        ibis.literal(value, "int32").cast("int64")
        if isinstance(value, int) and abs(value) < 1 << 31
        else ibis.literal(value)
    )


def _mending(found: Kind | None, expected: Kind) -> str:
    casts = {Kind.NUMBER: "double", Kind.TEXT: "varchar", Kind.TIME: "timestamp"}
    is_castable = found in (Kind.TEXT, Kind.FLAG, Kind.NUMBER) and (expected is not Kind.TIME or found is Kind.TEXT)
    return f" (cast(... as {casts[expected]}) makes it {expected})" if is_castable and expected in casts else ""
