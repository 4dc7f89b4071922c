"""The `table:` block of a schema file: how a user's own files become rows of the schema.

It declares values and nothing else. A rule is a column, or a column compared with a number or word: there is no
expression language, so nothing that stands in a schema file can run.
"""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainValidator

from recsys.datasets.declared_history import HistoryRule, check_history
from recsys.datasets.declared_values import Declared
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.datasets.table_forms import CsvForm, TimeForm
from recsys.errors import UsageError, did_you_mean
from recsys.features.declaration import (
    NOT_NULL,
    ByValue,
    Declaration,
    Expected,
    Listed,
    Named,
    Text,
    such_that,
)
from recsys.features.plain_yaml import lines_named, plain_yaml, read_plain_yaml
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import for_elements, vector_element

_SPLITS = (TRAIN, VALIDATION, TEST)
_COMPARISON = re.compile(r"^(?P<column>.+?)\s*(?P<operator>>=|<=|==|!=|>|<)\s*(?P<value>[^<>=!]+)$")


@dataclass(frozen=True)
class LabelRule:
    """Label 1 where `column` stands in the relation `operator` to `value`; with no operator, the column's own 0 or 1.

    >>> LabelRule.parse("rating > 3")
    LabelRule(column='rating', operator='>', value=3)
    >>> LabelRule.parse("clicked")
    LabelRule(column='clicked', operator='', value='')
    """

    column: str
    operator: str = ""
    value: Declared = ""

    @classmethod
    def parse(cls, text: str) -> "LabelRule":
        """Read "column" or "column > value"; a value in quotation marks is text."""
        if not isinstance(text, str) or not text:
            raise ValueError
        if not (match := _COMPARISON.match(text.strip())):
            return cls(text.strip())
        return cls(match["column"].strip(), match["operator"], _value_of(match["value"].strip()))


def _value_of(word: str) -> Declared:
    """What an unquoted word stands for; what would be written otherwise, as 007 would, is text."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for form in (int, float):
        with suppress(ValueError):
            if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e-?\d+)?", word):
                return form(word)
    return word.strip("'\"")


def _in_a_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _moment(value: Any) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(str(value))
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment


_Values = Annotated[
    tuple[Any, ...],
    BeforeValidator(_in_a_tuple),
    such_that(lambda values: all(isinstance(value, Declared) for value in values)),
    Expected("a value of the column. An empty place in the files needs no declaration"),
]
_Moment = Annotated[datetime.datetime, PlainValidator(_moment), Expected("a UTC date or time such as 2011-07-01")]


@dataclass(frozen=True)
class SegmentRule(Declaration):
    """The segment of a row, from `column`.

    With `bins`, rising numbers b1, b2, ...: the first segment below b1, the second from b1 to below b2, and so on.
    No numbers, which are not the same as None, put every row that has a value into the only segment. With `names`: raw
    values, each with its segment. With neither, the column's values are the segments' names.
    """

    column: Text
    bins: Annotated[
        Listed[Annotated[float, Field(strict=True)]] | None, Expected("a list of rising numbers"), NOT_NULL
    ] = None
    names: ByValue[Text] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse two rules at once."""
        if self.bins is not None and self.names:
            raise ValueError("has both `bins` and `names`; expected one of them.")
        if strange := [value for value in self.names if not isinstance(value, Declared)]:
            raise ValueError(f"names has the key {strange[0]!r}; expected values of the column.")


@dataclass(frozen=True)
class SplitRule(Declaration):
    """Which rows are train, validation and test, where the files do not say it.

    With a `column`: the raw values of each split. Otherwise by time: train before `validation_start`, validation
    before `test_start`, test before `test_end` (None: to the end). Rows outside every split are left out and counted.
    """

    column: Text = ""
    train: _Values = ()
    validation: _Values = ()
    test: _Values = ()
    validation_start: _Moment | None = None
    test_start: _Moment | None = None
    test_end: _Moment | None = None

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Those of the splits by a column, or of those by time."""
        if "column" in values:
            return ("column", *_SPLITS), ("column", *_SPLITS)
        return ("validation_start", "test_start", "test_end"), ("validation_start", "test_start")

    def __post_init__(self) -> None:
        """Refuse spans of time that do not follow one another, and a value of two splits."""
        starts = [start for start in (self.validation_start, self.test_start, self.test_end) if start is not None]
        if any(later <= earlier for earlier, later in pairwise(starts)):
            found = ", ".join(map(str, starts))
            raise ValueError(f"validation_start, test_start and test_end must rise; found {found}.")
        words = [str(value) for value, _ in self.values]
        if repeated := [value for value, _ in self.values if words.count(str(value)) > 1]:
            raise ValueError(f"the value {repeated[0]!r} stands in two splits; expected one.")

    @property
    def values(self) -> tuple[tuple[Declared, str], ...]:
        """Raw values, each with its split."""
        return tuple((value, split) for split in _SPLITS for value in getattr(self, split))


@dataclass(frozen=True)
class ListedText(Declaration):
    """A column of text that holds a list, its values between separators."""

    column: Text
    separator: Text


def _files(found: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(found, Mapping) and set(found) != set(_SPLITS):
        strange = [name for name in found if name not in _SPLITS]
        hint = did_you_mean(strange[0], _SPLITS) if strange else ""
        raise ValueError(f"names the splits {list(found)}{hint}; expected {', '.join(_SPLITS)}.")
    files = {}
    for split, entry in (found if isinstance(found, Mapping) else {"": found}).items():
        patterns = [entry] if isinstance(entry, str) else entry
        if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(one, str) for one in patterns):
            raise ValueError(f"holds {entry!r}; expected a path, a pattern, or a list of them.")
        for pattern in patterns:
            if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or "\0" in pattern:
                raise ValueError(f"holds {pattern!r}; expected a path below the raw folder, without `..`.")
        files[split] = tuple(patterns)
    return files


@dataclass(frozen=True)
class TableLayout(Declaration):
    """The block.

    Attributes:
        files: split -> patterns below the raw folder; the one key "" where a split rule says the split.
        columns: name in the schema -> name in the files, where the two differ.
        missing: feature or weight -> the values that stand for "not known" in the files.
        csv: how CSV files are written.
        lists: sparse list -> text column that holds it; words: sparse list -> text column, cut into lower-case words.
        text: of the schema file, which goes along with a ranker that is to read rows in the same way.
    """

    files: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_files)]
    label: Annotated[LabelRule, PlainValidator(LabelRule.parse), Expected("text such as `rating > 3`")]
    time: TimeForm
    segment: SegmentRule
    splits: Annotated[SplitRule | None, NOT_NULL] = None
    columns: Named[Text] = field(default_factory=dict)
    missing: Named[_Values] = field(default_factory=dict)
    lists: Named[ListedText] = field(default_factory=dict)
    words: Named[Text] = field(default_factory=dict)
    history: HistoryRule = field(default_factory=HistoryRule)
    csv: CsvForm = field(default_factory=CsvForm)
    text: str = ""

    @property
    def texts(self) -> dict[str, str]:
        """Sparse list -> the text column that it is cut out of."""
        return {**{name: one.column for name, one in self.lists.items()}, **self.words}

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """All but the text, which is not of the block."""
        known, required = super().keys(values)
        return [key for key in known if key != "text"], required

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], schema: FeatureSchema, where: str = "the schema", text: str = ""
    ) -> Self:
        """Build and check a layout from the plain values of a whole schema document, its `table:` block among them.

        Args:
            schema: of the same document.
            where: where the document stands, at the beginning of each message.
            text: of the file that the document was read from; without one it is written anew.

        Raises:
            UsageError: the block is missing, or a key or value in it cannot be meant; names key, found, expected.
        """
        where = f"{where}, `table`"
        if not isinstance(document.get("table"), Mapping):
            raise UsageError(
                f"{where}: the block is missing; a source of kind `table` needs it to know files, label, time and "
                "splits. Copy that of data/schemas/ml_100k.yaml."
            )
        layout = cls.checked(document["table"], where)
        _check(layout, schema, where)
        missing = for_elements(layout.missing, [feature.name for feature in schema.dense])
        return replace(layout, missing=missing, text=text or plain_yaml(document))


def load_table_layout(schema_path: Path, schema: FeatureSchema) -> TableLayout:
    """Read the `table:` block of a schema file.

    Raises:
        UsageError: see `TableLayout.from_document`; names the file too.
    """
    document = read_plain_yaml(schema_path, "Schema file")
    text = schema_path.read_text(encoding="utf-8")
    with lines_named(schema_path, where := f"Schema file {schema_path}"):
        return TableLayout.from_document(document, schema, where, text)


def _check(layout: TableLayout, schema: FeatureSchema, where: str) -> None:
    """Refuse what the schema does not know, and what contradicts it."""
    if ("" in layout.files) != (layout.splits is not None):
        raise UsageError(
            f"{where}: the splits are said by `files: {{train: ..., validation: ..., test: ...}}` or by "
            "`splits:`; exactly one of the two must do it."
        )
    _check_segment(layout.segment, schema, f"{where}.segment")
    _check_names(layout, schema, where)
    check_history(layout.history, schema, ("label", schema.label, layout.label.column), f"{where}.history")
    for feature in (one for one in schema.features if one.name not in layout.history.features):
        column = layout.texts.get(feature.name) or layout.columns.get(feature.name, feature.name)
        # The user and the item stand in every row whatever is asked of it.
        if column == layout.label.column and feature.name not in (schema.user, schema.item):
            raise UsageError(
                f"{where}: the feature `{feature.name}` reads `{column}`, which the label is made of: it would leak "
                "the answer. Leave the feature out; `history` can count earlier rows' values."
            )
        rule = layout.segment
        if feature.name == schema.segment and (rule.column != column or rule.bins is not None or rule.names):
            raise UsageError(
                f"{where}: `{feature.name}` is the segment and a feature, with different values. Name the segment "
                f"otherwise, such as `{feature.name}_segment`."
            )


def _check_segment(rule: SegmentRule, schema: FeatureSchema, where: str) -> None:
    names, bins = schema.segments, rule.bins
    if bins is not None and (sorted(set(bins)) != [*bins] or len(bins) != len(names) - 1):
        raise UsageError(
            f"{where}: `bins` is {[*bins]}; expected {len(names) - 1} rising numbers, which cut the column into the "
            f"{len(names)} segments {', '.join(names)}."
        )
    if strange := [name for name in rule.names.values() if name not in names]:
        raise UsageError(
            f"{where}.names: leads to `{strange[0]}`{did_you_mean(strange[0], names)}; expected one of "
            f"{', '.join(names)}."
        )


def _check_names(layout: TableLayout, schema: FeatureSchema, where: str) -> None:
    """Refuse names under which there is nothing that the files could hold."""
    lists = [feature.name for feature in schema.features if feature.kind is FeatureKind.SPARSE_LIST]
    for key in ("lists", "words"):
        _require_names(getattr(layout, key), lists, "a feature of kind sparse_list", f"{where}.{key}")
    if both := sorted(set(layout.lists) & set(layout.words)):
        raise UsageError(f"{where}: `{both[0]}` stands under `lists` and under `words`; expected one of them.")
    # Features that are not counted, vectors by their own name and by their elements', and the weight.
    names = [feature.name for feature in schema.features if feature.name not in layout.history.features]
    vectors = [vector[0] for name in names if (vector := vector_element(name))]
    in_files = list(dict.fromkeys([*names, *vectors, *([schema.weight] if schema.weight else [])]))
    _require_names(
        layout.columns,
        [name for name in in_files if name not in layout.texts],
        "a feature that the files hold (the columns of label, segment, time and split stand under those keys, that of "
        "a text under `lists` or `words`)",
        f"{where}.columns",
    )
    _require_names(layout.missing, in_files, "a feature that the files hold", f"{where}.missing")


def _require_names(found: Iterable[str], known: Sequence[str], what: str, where: str) -> None:
    if unknown := [name for name in found if name not in known]:
        raise UsageError(
            f"{where}: `{unknown[0]}`{did_you_mean(unknown[0], known)} is not {what}; expected some of "
            f"{', '.join(known) or 'nothing, as there is none'}."
        )
