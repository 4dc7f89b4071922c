"""Scalar expressions over the columns of a row, in a small subset of SQL: what `derive` and `where` may say.

They are parsed by SQLGlot and held against what is allowed: a node of the tree or a function that is not listed is
refused, whatever it is. Nothing is ever run as SQL; `expression_values.py` builds Ibis values out of the tree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import duckdb
import ibis.expr.types as ir
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.duckdb import DuckDBParser

from recsys.datasets.expression_values import CASTS, OPERATORS, constant, refusal, value_of
from recsys.datasets.scalar_functions import FUNCTIONS, Kind
from recsys.errors import UsageError, did_you_mean

_MAXIMUM_CHARACTERS = 4000
_MAXIMUM_COPIES = 2000
"""Pieces of the SQL that an expression becomes. DuckDB needs seconds from about 50,000 on."""

_MAXIMUM_DEPTH = 60

_ALLOWED: dict[type[exp.Expr], set[str]] = {
    exp.Column: {"this"},
    exp.Identifier: {"this", "quoted"},
    exp.Literal: {"this", "is_string"},
    exp.Boolean: {"this"},
    exp.Null: set(),
    exp.Paren: {"this"},
    exp.Neg: {"this"},
    exp.Not: {"this"},
    **{operator: {"this", "expression", "typed", "safe"} for operator in OPERATORS},
    exp.Is: {"this", "expression"},
    exp.In: {"this", "expressions"},
    exp.Between: {"this", "low", "high"},
    exp.Case: {"ifs", "default"},
    exp.If: {"this", "true"},
    exp.Cast: {"this", "to"},
    exp.TryCast: {"this", "to", "safe"},
    exp.DataType: {"this", "nested"},
    exp.Anonymous: {"this", "expressions"},
}
"""The nodes of a tree, each with what may hang on it."""

_NAMES = (exp.Identifier, exp.DataType)
_GRAMMAR = (
    "columns, numbers, 'text', + - * / %, ||, comparisons, and, or, not, is null, in (1, 2), between, case when, cast "
    f"and the functions {', '.join(sorted(FUNCTIONS))}"
)


class _ScalarParser(DuckDBParser):
    """DuckDB's grammar, in which every call of a function stays the call that was written.

    Its own rewriting of functions into one another would leave nothing to hold against a list of names.
    """

    FUNCTIONS = {}  # noqa: RUF012
    FUNCTION_PARSERS = {name: DuckDBParser.FUNCTION_PARSERS[name] for name in ("CAST", "TRY_CAST")}  # noqa: RUF012


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Its value is a function of the row alone. Where it is not defined, as is a division by zero or the logarithm of a
    negative number, it is null; so is a result that is no finite number, or a whole one beyond 64 bits.

    Attributes:
        text: as it was written.
        where: where it stands, at the beginning of messages.
    """

    text: str
    where: str = field(compare=False)
    _tree: exp.Expr = field(compare=False, repr=False)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names that it reads, each once, in the order of the text. Upper and lower case are different."""
        found = [node for node in self._tree.walk() if isinstance(node, exp.Identifier)]
        return tuple(dict.fromkeys(node.this for node in sorted(found, key=lambda node: int(node.meta["start"]))))

    def to_ibis(self, columns: ir.Table | Mapping[str, ir.Value]) -> ir.Value:
        """Return the value over the columns of a table, or over values by their names; nothing is computed yet.

        Raises:
            UsageError: a column is missing, or of a type for which the expression has no meaning.
        """
        names = columns.columns if isinstance(columns, ir.Table) else columns
        require_columns(self, names)
        return value_of(self._tree, columns, self.text, self.where)

    def condition(self, columns: ir.Table | Mapping[str, ir.Value]) -> ir.BooleanValue:
        """Return the value of an expression that says which rows are meant; null counts as false.

        Raises:
            UsageError: see `to_ibis`; or the value is not true or false.
        """
        value = self.to_ibis(columns)
        if not value.type().is_boolean():
            raise UsageError(
                f"{self.where}: `{self.text}` is of type {value.type()}; expected a condition such as `price > 0`."
            )
        return value.fill_null(False)


def parse_expression(text: str, where: str) -> Expression:
    """Read and check an expression.

    >>> parse_expression("ln(1 + price) - coalesce(mean_price, 0)", "derive.gap").columns
    ('price', 'mean_price')

    Args:
        where: where it stands, at the beginning of messages ("Schema file shop.yaml, line 12, `table`.derive.gap").

    Raises:
        UsageError: it is not of the subset; says what stands there, at which character, and what is allowed.
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where} is {text!r}; expected an expression such as `price / mean_price`.")
    if len(text) > _MAXIMUM_CHARACTERS:
        raise UsageError(f"{where} has {len(text):,} characters; an expression has at most {_MAXIMUM_CHARACTERS:,}.")
    try:
        tree = _parsed(text, where)
        for node in tree.walk():
            _check(node, text, where)
        depth, copies = _depth(tree), _copies(tree)
    except RecursionError:
        depth, copies = _MAXIMUM_DEPTH + 1, 0
    if depth > _MAXIMUM_DEPTH:
        raise UsageError(
            f"{where}: {text[:60]!r}... nests its parts too deeply; an expression does so at most {_MAXIMUM_DEPTH} "
            "deep, each further term of a sum counted. Derive a part of it under a name of its own."
        )
    if copies > _MAXIMUM_COPIES:
        raise UsageError(
            f"{where}: {text[:60]!r}... becomes {copies:,} pieces of SQL; an expression has at most "
            f"{_MAXIMUM_COPIES:,}. Derive a part of it under a name of its own."
        )
    return Expression(text, where, tree)


def require_columns(expression: Expression, known: Iterable[str]) -> None:
    """Refuse an expression that reads a column that is not there.

    Raises:
        UsageError: names the column, the nearest one, and all that are known.
    """
    known = list(known)
    if missing := [name for name in expression.columns if name not in known]:
        raise UsageError(
            f"{expression.where}: `{expression.text}` reads the column `{missing[0]}`"
            f"{did_you_mean(missing[0], known)}, which is not there; known are {', '.join(known)}. Upper and lower "
            "case are different."
        )


def _parsed(text: str, where: str) -> exp.Expr:
    dialect = DuckDB()
    try:
        # As a condition: as a statement, what begins with `set` or `drop` would be one.
        (tree,) = _ScalarParser(dialect=dialect).parse_into(exp.Condition, dialect.tokenize(text), text)
    except (ParseError, TokenError, ValueError) as error:
        found = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
        place = f", at character {found['col']}" if found.get("line") == 1 else ""
        reason = str(found.get("description") or "it is no SQL")
        # SQLGlot's own words name classes of its tree.
        reason = "something is missing there" if reason.startswith("Required keyword") else reason
        raise UsageError(
            f"{where}: {text!r} cannot be read{place} ({reason}); expected one expression of {_GRAMMAR}. A column "
            "whose name is no plain word stands in double quotation marks."
        ) from error
    if tree is None:
        raise UsageError(f"{where}: {text!r} holds no expression; expected one such as `price / mean_price`.")
    return tree


def _check(node: exp.Expr, text: str, where: str) -> None:
    """Refuse a node that is not of the subset, or has more to it than the subset knows."""
    allowed, found = _ALLOWED.get(type(node)), {key for key, value in node.args.items() if value}
    is_own_if = isinstance(node, exp.If) and not isinstance(node.parent, exp.Case)
    if isinstance(node, exp.Column) and "table" in found:
        raise refusal(node, "is a name with a dot; expected a column's own name", text, where)
    if isinstance(node, exp.Case) and "this" in found:
        raise refusal(node, "compares by `case x when`; expected `case when x = 1 then`", text, where)
    if allowed is None or is_own_if or found - allowed:
        raise refusal(node, f"is not allowed ({type(node).__name__}); expected {_GRAMMAR}", text, where)
    if isinstance(node, exp.Anonymous):
        _check_call(node, text, where)
    elif isinstance(node, exp.Is) and not isinstance(node.expression, exp.Null):
        raise refusal(node, "follows `is` with more than null; expected `is null` or `is not null`", text, where)
    elif isinstance(node, exp.In) and (not node.expressions or None in map(constant, node.expressions)):
        raise refusal(node, "lists more than numbers and 'text' behind `in`; expected those alone", text, where)
    elif isinstance(node, exp.DataType) and node.this not in CASTS:
        names = dict.fromkeys(form.value.lower() for form in CASTS)
        raise refusal(
            node.parent or node, f"casts to {node.sql('duckdb')}; expected one of {', '.join(names)}", text, where
        )
    elif isinstance(node, exp.Literal) and not node.is_string and constant(node) is None:
        raise refusal(node, "is no number that 64 bits hold", text, where)


def _check_call(node: exp.Anonymous, text: str, where: str) -> None:
    name, given = str(node.name), node.expressions
    if not isinstance(node.this, str) or (function := FUNCTIONS.get(name.lower())) is None:
        expected = f"expected one of {', '.join(sorted(FUNCTIONS))}"
        raise refusal(
            node, f"calls `{name}`{did_you_mean(name, FUNCTIONS)}, which is not allowed; {expected}", text, where
        )
    if (kinds := function.kinds(len(given))) is None:
        expected = ", ".join(function.takes)
        raise refusal(node, f"gives `{name}` {len(given)} arguments; expected {expected}", text, where)
    for kind, argument in zip(kinds, given, strict=True):
        if kind.is_constant and not _is_meant(constant(argument), kind):
            raise refusal(argument, f"stands in `{name}` where {kind} is expected", text, where)
    constants = [constant(argument) for argument in given[1:]]
    if Kind.PATTERN in kinds:
        _check_pattern(node, constants, text, where)
    if name.lower() == "bin" and any(not one < other for one, other in pairwise(constants)):  # type: ignore[operator]
        raise refusal(node, f"gives `bin` the edges {constants}; expected numbers that rise", text, where)


def _is_meant(value: object, kind: Kind) -> bool:
    if kind is Kind.WHOLE_CONSTANT:
        return isinstance(value, int) and abs(value) < 1 << 31
    return isinstance(value, int | float if kind is Kind.NUMBER_CONSTANT else str)


def _check_pattern(node: exp.Anonymous, constants: Sequence[object], text: str, where: str) -> None:
    """Refuse what DuckDB would refuse at the first row: no regular expression, or a group that it does not have."""
    try:
        with duckdb.connect() as connection:
            connection.execute(f"SELECT {node.name}('', {', '.join('?' * len(constants))})", constants)
            if isinstance(constants[-1], int):
                # The number of a group is looked at where something matches, as the empty text does here.
                connection.execute("SELECT regexp_extract_all('', ?, ?)", [f"(?:{constants[0]})|", constants[-1]])
    except duckdb.Error as error:
        raise refusal(node, f"has no meaning ({error})", text, where) from error


def _copies(node: exp.Expr) -> int:
    """How many pieces of SQL a tree becomes, texts that grow counted by how much."""
    if constant(node) is not None:
        return 0
    # Some operands are held twice: to look whether they are defined, and for their value.
    first, others = 1, 1
    if isinstance(node, exp.Anonymous):
        function = FUNCTIONS[node.name.lower()]
        first = others = function.copies or 2 * len(node.expressions)
        if function.may_grow:
            first = max(1, len(node.expressions[-1].this))
    elif isinstance(node, exp.Div | exp.Mod):
        others = 2
    elif isinstance(node, exp.Cast):
        first = 4
    elif isinstance(node, exp.Predicate | exp.Between | exp.In):
        first = others = 2
    children = [_copies(child) for child in node.iter_expressions() if not isinstance(child, _NAMES)]
    return 1 + sum(copies * (others if place else first) for place, copies in enumerate(children))


def _depth(node: exp.Expr) -> int:
    return 1 + max((_depth(child) for child in node.iter_expressions()), default=0)
