"""One type for each column over all files of a table, whatever their forms.

Parquet files bring types, which must agree. Text (of CSV files and of folders named `column=value`) gets one by the
column's use and all of its values together, by fixed rules: nothing depends on which file a value stands in, and a
value that fits no reading stops the work with its place.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from itertools import product

import pyarrow as pa

from recsys.datasets.database import quoted
from recsys.datasets.table_uses import Use
from recsys.errors import DataError

BIGINT, UBIGINT, DOUBLE, BOOLEAN, VARCHAR = "BIGINT", "UBIGINT", "DOUBLE", "BOOLEAN", "VARCHAR"
TIMESTAMP, ZONED = "TIMESTAMP", "TIMESTAMPTZ"
MOMENT = "timestamp"
"""The plain type of a column whose Parquet files have times of several units and zones, or days beside times."""

# Asked of words in small letters, without blanks around them.
_NO_VALUE_WORDS = ("na", "n/a", "#n/a", "<na>", "null", "none", "nil", "?", "-", "--", ".", "\\n")
_ISO_TIME = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?(Z|UTC|[+-]\d{2}(:?\d{2})?))?)?"
# Ways to write a time that are shown to somebody who must say which one is meant; none of them is ever guessed.
_DAYS = ("%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%Y", "%m.%d.%Y", "%Y/%m/%d", "%Y/%d/%m", "%Y%m%d")
_SHORT_DAYS = ("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d %b %Y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


class Written(IntEnum):
    """How a text is written."""

    WHOLE = 0
    """A whole number as any program writes it: no `+`, no zero in front."""
    LARGE = 1
    """One from 2^63 to 2^64."""
    DECIMAL = 2
    NOT_FINITE = 3
    PADDED = 4
    """A number with a zero in front, as codes have it (`007`); among declared numbers it is one like any other."""
    TRUTH = 5
    NO_VALUE = 6
    """A word such as NA, which many programs write for no value."""
    WORD = 7
    TIME = 8
    ZONED_TIME = 9


@dataclass(frozen=True)
class Texts:
    """All values of a column that are text: how many are written in each way, and one of each.

    Whether there are any in a way decides a type; how many there are, and which, is for messages.
    """

    counts: tuple[int, ...] = (0,) * len(Written)
    examples: tuple[str | None, ...] = (None,) * len(Written)

    @classmethod
    def of_ways(cls, ways: int) -> "Texts":
        """Texts of which it is known alone in which ways some are written: those whose bits are set."""
        return cls(tuple(ways >> way & 1 for way in Written))

    def __add__(self, other: "Texts") -> "Texts":
        examples = (mine or its for mine, its in zip(self.examples, other.examples, strict=True))
        return Texts(tuple(map(sum, zip(self.counts, other.counts, strict=True))), tuple(examples))

    def are(self, *ways: Written) -> bool:
        """Whether each value is written in one of these ways."""
        return sum(self.counts) == sum(self.counts[way] for way in ways)

    def example_beside(self, *ways: Written) -> str:
        """A value that is written in none of these ways."""
        return next((text for way, text in enumerate(self.examples) if way not in ways and text is not None), "")


@dataclass(frozen=True)
class TextRules:
    """What is declared of text: words for no value in columns of numbers and times, and how times are written."""

    missing: tuple[str, ...] | None
    time_format: str

    def filled(self, text: str) -> str:
        """SQL: a text, or null where it stands for no value."""
        if not self.missing:
            return text
        return f"CASE WHEN trim({text}) IN ({', '.join(map(quoted, self.missing))}) THEN NULL ELSE {text} END"

    def way(self, text: str, use: Use) -> str:
        """SQL: how a filled text is written, as a number of `Written`; null for null."""
        plain = f"lower(trim({text}))"
        is_number = f"TRY_CAST({text} AS DOUBLE) IS NOT NULL AND NOT contains({text}, '_')"
        words = (
            f"WHEN {plain} IN ('true', 'false') THEN {Written.TRUTH} "
            f"WHEN {plain} IN ({', '.join(map(quoted, _NO_VALUE_WORDS))}) THEN {Written.NO_VALUE} "
            f"ELSE {Written.WORD} END"
        )
        if use is Use.TIME:
            return f"CASE WHEN {text} IS NULL THEN NULL {self._time_ways(text)} ELSE {Written.WORD} END"
        if use is Use.NUMBER:
            return f"CASE WHEN {text} IS NULL THEN NULL WHEN {is_number} THEN {Written.DECIMAL} {words}"
        # Reading a number back tells `12` from `012`, `1_2`, `1e1` and `12.0`, which DuckDB reads as whole numbers too.
        return (
            f"CASE WHEN {text} IS NULL THEN NULL "
            f"WHEN CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) = trim({text}) THEN {Written.WHOLE} "
            f"WHEN {is_number} THEN CASE WHEN NOT isfinite(TRY_CAST({text} AS DOUBLE)) THEN {Written.NOT_FINITE} "
            f"WHEN CAST(TRY_CAST({text} AS UBIGINT) AS VARCHAR) = trim({text}) THEN {Written.LARGE} "
            f"WHEN regexp_matches({text}, '^ *[+-]?0[0-9]') THEN {Written.PADDED} ELSE {Written.DECIMAL} END {words}"
        )

    def example(self, text: str, use: Use, condition: str) -> str:
        """SQL: one of many texts for which a condition holds, the same whatever their order."""
        if use is not Use.TIME:
            return f"min({text}) FILTER ({condition})"
        # Of 01/01/2026 and 01/02/2026 the second can be read in two ways.
        return f"(min({{'is_blind': {text}[1:2] = {text}[4:5], 'text': {text}}}) FILTER ({condition})).text"

    def read(self, text: str, form: str) -> str:
        """SQL: a text as a value of the type that was found for its column."""
        if form == VARCHAR:
            return text
        filled = self.filled(text)
        if form == TIMESTAMP and self.time_format:
            # The session's zone is UTC, so a time that names none is UTC's.
            return f"make_timestamp(epoch_us(strptime({filled}, {quoted(self.time_format)})))"
        return f"make_timestamp(epoch_us(CAST({filled} AS {ZONED})))" if form == ZONED else f"CAST({filled} AS {form})"

    def _time_ways(self, text: str) -> str:
        if self.time_format:
            return f"WHEN try_strptime({text}, {quoted(self.time_format)}) IS NOT NULL THEN {Written.TIME}"
        is_time = f"regexp_full_match({text}, {quoted(_ISO_TIME)}) AND TRY_CAST({text} AS TIMESTAMP) IS NOT NULL"
        # Behind the day, whose parts stand between `-` too.
        is_zoned = f"regexp_matches({text}[12:], '[ZU+-]')"
        return f"WHEN {is_time} THEN CASE WHEN {is_zoned} THEN {Written.ZONED_TIME} ELSE {Written.TIME} END"


class UnfitTextError(Exception):
    """A column's values fit no type: with one of those to blame, and what to say of it behind its place."""

    def __init__(self, value: str, message: str) -> None:
        super().__init__(message)
        self.value, self.message = value, message


def type_of_text(column: str, use: Use, texts: Texts, rules: TextRules, beside: str) -> str:
    """Return the type of a column that stands in files as text.

    Args:
        beside: the plain type that Parquet files have for it; empty where none has it.

    Raises:
        UnfitTextError: the values fit none.
    """
    if beside and beside != "null":
        return _type_beside(column, texts, rules, beside, use)
    if use is Use.WORDS:
        return VARCHAR
    if use is Use.TIME:
        return _time(column, texts, rules)
    if use is Use.NUMBER:
        return _number(column, texts)
    return _number_or_words(column, texts, rules)


def _number(column: str, texts: Texts) -> str:
    if texts.are(Written.DECIMAL):
        return DOUBLE
    if texts.are(Written.TRUTH):
        return BOOLEAN
    value = texts.examples[Written.NO_VALUE] or texts.example_beside(Written.DECIMAL)
    strange = sum(texts.counts) - texts.counts[Written.DECIMAL]
    raise UnfitTextError(
        value,
        f"column `{column}` holds {value!r}, and {strange} of {sum(texts.counts)} values are no numbers; expected "
        f"numbers such as 1234.5, as the column is used. {_mend(value)}",
    )


def _mend(value: str) -> str:
    if value.strip().lower() in _NO_VALUE_WORDS:
        return _declare_missing(value)
    if "," in value:
        return "Write a point before the decimals, and nothing between thousands."
    return "Mend the value, or declare another use of the column (a label of words is compared: `bought == yes`)."


def _declare_missing(value: str) -> str:
    return f"If it stands for no value, say so in the schema: `table.csv.missing: [{value.strip()!r}]`."


def _number_or_words(column: str, texts: Texts, rules: TextRules) -> str:
    if not sum(texts.counts):
        return VARCHAR
    if texts.are(Written.WHOLE):
        return BIGINT
    if texts.are(Written.WHOLE, Written.LARGE):
        return UBIGINT
    plain = (Written.WHOLE, Written.LARGE, Written.DECIMAL)
    if texts.are(*plain):
        return DOUBLE
    none = (Written.NO_VALUE, Written.NOT_FINITE)
    is_number = any(texts.counts[way] for way in plain)
    if rules.missing is None and is_number and texts.are(*plain, *none):
        value = texts.examples[Written.NO_VALUE] or texts.examples[Written.NOT_FINITE] or ""
        raise UnfitTextError(
            value,
            f"column `{column}` holds {value!r} beside numbers, in {sum(texts.counts[way] for way in none)} of "
            f"{sum(texts.counts)} values; it may stand for no value or be a word. Say which in the schema: "
            f"`table.csv.missing: [{value.strip()!r}]`, or `table.csv.missing: []` to keep the column as words.",
        )
    return VARCHAR


def _time(column: str, texts: Texts, rules: TextRules) -> str:
    if texts.are(Written.TIME, Written.ZONED_TIME):
        return TIMESTAMP if texts.are(Written.TIME) else ZONED
    value = texts.examples[Written.WORD] or ""
    wanted = f"`table.time.format` {rules.time_format!r}" if rules.time_format else "times such as 2026-01-31 23:59:59"
    shown = f"column `{column}` holds {value!r}; expected {wanted}"
    raise UnfitTextError(value, f"{shown}. {_readings(value)}")


def _readings(value: str) -> str:
    if value.strip().isdigit() and len(value.strip()) != len("20260131"):
        return "If it is a number since 1970, set `table.time.unit` to seconds, ms or us."
    if value.strip().lower() in _NO_VALUE_WORDS:
        return _declare_missing(value)
    ways = []
    for day, hour in product((*_DAYS, *_SHORT_DAYS), _HOURS):
        with suppress(ValueError):
            ways.append(f"{day + hour!r} reads {datetime.strptime(value.strip(), day + hour).isoformat(sep=' ')}")
    shown = ", ".join(ways[:3]) or "'%d/%m/%Y %H:%M', for instance"
    return f"Say under `table.time.format` of the schema how times are written: {shown}."


def _type_beside(column: str, texts: Texts, rules: TextRules, beside: str, use: Use) -> str:
    """The type of text in some files where others are Parquet and have a type for the column."""
    is_number = beside.startswith(("int", "uint", "double", "float", "halffloat", "decimal"))
    fits = [(beside == "string", VARCHAR), (beside == "bool" and texts.are(Written.TRUTH), BOOLEAN)]
    if use is Use.TIME and is_moment(beside):
        return _time(column, texts, rules)
    if use is Use.NUMBER:
        fits.append(((is_number or beside == "bool") and texts.are(Written.DECIMAL), DOUBLE))
    elif beside.startswith(("int", "uint")):
        fits.append((beside != "uint64" and texts.are(Written.WHOLE), BIGINT))
        fits.append((beside == "uint64" and texts.are(Written.WHOLE, Written.LARGE), UBIGINT))
    elif is_number:
        fits.append((texts.are(Written.WHOLE, Written.LARGE, Written.DECIMAL), DOUBLE))
    for does_fit, form in fits:
        if does_fit:
            return form
    value = texts.examples[Written.NO_VALUE] or texts.example_beside(Written.WHOLE) or texts.example_beside()
    raise UnfitTextError(
        value,
        f"column `{column}` is text there (such as {value!r}), and {beside} in the Parquet files; expected one type in "
        "all files. Write them in one form.",
    )


def parquet_type(column: str, found: Sequence[tuple[str, str]]) -> str:
    """Return the plain type that Parquet files agree on for a column; "null" where they hold nothing but nulls.

    Args:
        found: each file with its plain type.

    Raises:
        DataError: they do not agree; names column, files and types.
    """
    typed = [(path, form) for path, form in found if form != "null"]
    if not typed:
        return "null"
    first, expected = typed[0]
    if all(is_moment(form) for _, form in typed):
        return expected if len({form for _, form in typed}) == 1 else MOMENT
    for path, form in typed:
        if form != expected:
            raise DataError(
                f"{path}: column `{column}` is {form}; expected {expected}, as in {first}. Write all files with the "
                "same columns and types."
            )
    return expected


def is_moment(form: str) -> bool:
    """Whether a plain type is one of times or days."""
    return form.startswith(("timestamp", "date"))


def plain_type(form: pa.DataType) -> str:
    """A type's name with differences left out that change no value: how strings are kept in memory."""
    if pa.types.is_dictionary(form):
        return plain_type(form.value_type)
    if pa.types.is_list(form) or pa.types.is_large_list(form) or pa.types.is_list_view(form):
        return f"list of {plain_type(form.value_type)}"
    is_text = pa.types.is_large_string(form) or pa.types.is_string_view(form)
    return "string" if is_text else str(form)
