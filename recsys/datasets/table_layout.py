"""The `table:` block of a schema file: how a user's own files become rows of the schema.

It declares values and nothing else. A rule is a column, or a column compared with a number or word: there is no
expression language, so nothing that stands in a schema file can run.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from recsys.datasets.declared_block import Block
from recsys.datasets.declared_history import history_from
from recsys.datasets.declared_values import Declared
from recsys.datasets.history import HistoryFeature, HistoryScope
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.datasets.table_forms import CsvForm, csv_form, time_format
from recsys.errors import UsageError, did_you_mean
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import for_elements, vector_element

TIME_UNITS = {"timestamp": 0, "seconds": 1_000_000, "ms": 1000, "us": 1}
"""Unit of a time column, with its microseconds; `timestamp` is a column that is one already."""

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
        if not (match := _COMPARISON.match(text.strip())):
            return cls(text.strip())
        return cls(match["column"].strip(), match["operator"], _value_of(match["value"].strip()))


@dataclass(frozen=True)
class SegmentRule:
    """The segment of a row, from `column`.

    With `bins`, rising numbers b1, b2, ...: the first segment below b1, the second from b1 to below b2, and so on.
    No numbers, which are not the same as None, put every row that has a value into the only segment. With `names`: raw
    values, each with its segment. With neither, the column's values are the segments' names.
    """

    column: str
    bins: tuple[float, ...] | None = None
    names: tuple[tuple[Declared, str], ...] = ()


@dataclass(frozen=True)
class SplitRule:
    """Which rows are train, validation and test, where the files do not say it.

    With a `column`: raw values, each with its split. Otherwise by time: train before `validation_start`, validation
    before `test_start`, test before `test_end` (None: to the end). Rows outside every split are left out and counted.
    """

    column: str = ""
    values: tuple[tuple[Declared, str], ...] = ()
    validation_start: datetime.datetime | None = None
    test_start: datetime.datetime | None = None
    test_end: datetime.datetime | None = None


@dataclass(frozen=True)
class TableLayout:
    """The parsed block.

    Attributes:
        files: split -> patterns below the raw folder; the one key "" where a split rule says the split.
        columns: name in the schema -> name in the files, where the two differ.
        missing: feature or weight -> the values that stand for "not known" in the files.
        time_format: how times that are text are written, as strptime has it; empty: as ISO 8601 has it.
        csv: how CSV files are written.
        lists: sparse list -> (text column, separator); words: sparse list -> text column, cut into lower-case words.
        text: of the schema file, which goes along with a ranker that is to read rows in the same way.
    """

    files: Mapping[str, tuple[str, ...]]
    label: LabelRule
    time_column: str
    time_unit: str
    segment: SegmentRule
    splits: SplitRule | None
    columns: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, tuple[Declared, ...]] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    history_scope: HistoryScope = HistoryScope.LIVE
    history: tuple[HistoryFeature, ...] = ()
    text: str = ""
    time_format: str = ""
    csv: CsvForm = field(default_factory=CsvForm)


def _value_of(word: str) -> Declared:
    """What an unquoted word stands for; what would be written otherwise, as 007 would, is text."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for form in (int, float):
        with suppress(ValueError):
            if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e-?\d+)?", word):
                return form(word)
    return word.strip("'\"")


def load_table_layout(schema_path: Path, schema: FeatureSchema) -> TableLayout:
    """Read the `table:` block of a schema file.

    Raises:
        UsageError: the block is missing, or a key or value in it cannot be meant; names file, key, found, expected.
    """
    document = read_plain_yaml(schema_path, "Schema file")
    where = f"Schema file {schema_path}, `table`"
    if not isinstance(document.get("table"), dict):
        raise UsageError(
            f"{where}: the block is missing; a source of kind `table` needs it to know files, label, time and splits. "
            "Copy that of data/schemas/ml_100k.yaml."
        )
    layout = _layout(Block(document["table"], where), schema)
    return replace(layout, text=schema_path.read_text(encoding="utf-8"))


def _layout(block: Block, schema: FeatureSchema) -> TableLayout:
    known = ("files", "label", "time", "segment", "splits", "columns", "missing", "lists", "words", "history", "csv")
    block.require(known, required=("files", "label", "time", "segment"))
    files = _files(block)
    if ("" in files) != ("splits" in block.values):
        raise UsageError(
            f"{block.where}: the splits are said by `files: {{train: ..., validation: ..., test: ...}}` or by "
            "`splits:`; exactly one of the two must do it."
        )
    time = block.inner("time")
    time.require(("column", "unit", "format"), required=("column", "unit"))
    csv = block.inner("csv")
    csv.require(("encoding", "delimiter", "missing"), required=())
    scope, history = history_from(block.inner("history"), schema)
    lists, words = _texts_cut(block, schema)
    return _checked(
        TableLayout(
            files=files,
            label=LabelRule.parse(block.text("label")),
            time_column=time.text("column"),
            time_unit=time.choice("unit", tuple(TIME_UNITS)),
            segment=_segment(block.inner("segment"), schema),
            splits=_splits(block.inner("splits")) if "splits" in block.values else None,
            columns=_columns(block.inner("columns"), schema, {**lists, **words}, history),
            missing=_missing(block.inner("missing"), schema, history),
            lists=lists,
            words=words,
            history_scope=scope,
            history=history,
            time_format=time_format(time.values, time.where),
            csv=csv_form(csv.values, csv.where),
        ),
        schema,
        block.where,
    )


def _texts_cut(block: Block, schema: FeatureSchema) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """The blocks `lists` and `words`."""
    lists, words = block.inner("lists"), block.inner("words")
    features = [feature.name for feature in schema.features if feature.kind is FeatureKind.SPARSE_LIST]
    for one in (lists, words):
        one.require_names(features, "a feature of kind sparse_list")
    if both := sorted(set(lists.values) & set(words.values)):
        raise UsageError(f"{block.where}: `{both[0]}` stands under `lists` and under `words`; expected one of them.")
    entries = {name: lists.inner(name) for name in lists.values}
    for entry in entries.values():
        entry.require(("column", "separator"), required=("column", "separator"))
    return {name: (entry.text("column"), entry.text("separator")) for name, entry in entries.items()}, words.texts()


def _columns(
    block: Block, schema: FeatureSchema, cut: Mapping[str, Any], history: Sequence[HistoryFeature]
) -> dict[str, str]:
    names = _names_in_files(schema, history)
    block.require_names(
        [name for name in names if name not in cut],
        "a feature that the files hold (the columns of label, segment, time and split stand under those keys, that of "
        "a text under `lists` or `words`)",
    )
    return block.texts()


def _missing(block: Block, schema: FeatureSchema, history: Sequence[HistoryFeature]) -> dict[str, tuple[Declared, ...]]:
    block.require_names(_names_in_files(schema, history), "a feature that the files hold")
    found = {
        name: tuple(block.declared(name, one) for one in (value if isinstance(value, list) else [value]))
        for name, value in block.values.items()
    }
    return for_elements(found, [feature.name for feature in schema.dense])


def _names_in_files(schema: FeatureSchema, history: Sequence[HistoryFeature]) -> list[str]:
    """The features that are not counted, vectors by their own name and by their elements', and the weight."""
    counted = {feature.name for feature in history}
    names = [feature.name for feature in schema.features if feature.name not in counted]
    vectors = [vector[0] for name in names if (vector := vector_element(name))]
    return list(dict.fromkeys([*names, *vectors, *([schema.weight] if schema.weight else [])]))


def _checked(layout: TableLayout, schema: FeatureSchema, where: str) -> TableLayout:
    """Refuse features that would be the answer, and two meanings of one name."""
    counted = {feature.name for feature in layout.history}
    for past in layout.history:
        if told := [column for column in past.by if column in ("label", schema.label, layout.label.column)]:
            raise UsageError(
                f"{where}.history.features.{past.name}: by names the label `{told[0]}`; the past of a row cannot be "
                "chosen by its own label, which is not known yet."
            )
    for feature in schema.features:
        if feature.name in counted:
            continue
        cut = {**{name: column for name, (column, _) in layout.lists.items()}, **layout.words}
        column = cut.get(feature.name) or layout.columns.get(feature.name, feature.name)
        # The user and the item stand in every row whatever is asked of it.
        if column == layout.label.column and feature.name not in (schema.user, schema.item):
            raise UsageError(
                f"{where}: the feature `{feature.name}` reads `{column}`, by which the label is told: it would leak "
                "the answer. Leave the feature out; `history` can tell of earlier rows' values."
            )
        rule = layout.segment
        if feature.name == schema.segment and (rule.column != column or rule.bins is not None or rule.names):
            raise UsageError(
                f"{where}: `{feature.name}` is the segment and a feature, with different values. Name the segment "
                f"otherwise, such as `{feature.name}_segment`."
            )
    return layout


def _files(block: Block) -> dict[str, tuple[str, ...]]:
    found = block.values["files"]
    by_split = found if isinstance(found, dict) else {"": found}
    if isinstance(found, dict) and set(found) != set(_SPLITS):
        strange = [name for name in found if name not in _SPLITS]
        hint = did_you_mean(strange[0], _SPLITS) if strange else ""
        raise UsageError(f"{block.where}: `files` names the splits {list(found)}{hint}; expected {', '.join(_SPLITS)}.")
    files = {}
    for split, entry in by_split.items():
        patterns = [entry] if isinstance(entry, str) else entry
        if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
            raise UsageError(f"{block.where}: `files` holds {entry!r}; expected a path, a pattern, or a list of them.")
        for pattern in patterns:
            if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or "\0" in pattern:
                raise UsageError(
                    f"{block.where}: `files` holds {pattern!r}; expected a path below the raw folder, without `..`."
                )
        files[split] = tuple(patterns)
    return files


def _segment(block: Block, schema: FeatureSchema) -> SegmentRule:
    block.require(("column", "bins", "names"), required=("column",))
    if "bins" in block.values and "names" in block.values:
        raise UsageError(f"{block.where}: has both `bins` and `names`; expected one of them.")
    bins = block.values.get("bins")
    if "bins" in block.values and (
        not isinstance(bins, list)
        or not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in bins)
        or sorted(set(bins)) != bins
        or len(bins) != len(schema.segments) - 1
    ):
        raise UsageError(
            f"{block.where}: bins is {bins!r}; expected {len(schema.segments) - 1} rising numbers, which cut the "
            f"column into the {len(schema.segments)} segments {', '.join(schema.segments)}."
        )
    names = block.inner("names")
    for name in names.values:
        if names.text(name) not in schema.segments:
            raise UsageError(
                f"{names.where}: leads to `{names.text(name)}`{did_you_mean(names.text(name), schema.segments)}; "
                f"expected one of {', '.join(schema.segments)}."
            )
    named = tuple((names.declared(name, names.keys[name]), names.text(name)) for name in names.values)
    return SegmentRule(block.text("column"), None if bins is None else tuple(map(float, bins)), named)


def _splits(block: Block) -> SplitRule:
    if "column" in block.values:
        block.require(("column", *_SPLITS), required=("column", *_SPLITS))
        values: dict[str, tuple[Declared, str]] = {}
        for split in _SPLITS:
            entry = block.values[split]
            for value in entry if isinstance(entry, list) else [entry]:
                if str(value) in values:
                    raise UsageError(f"{block.where}: the value {value!r} stands in two splits; expected one.")
                values[str(value)] = block.declared(split, value), split
        return SplitRule(column=block.text("column"), values=tuple(values.values()))
    block.require(("validation_start", "test_start", "test_end"), required=("validation_start", "test_start"))
    start, middle = block.moment("validation_start"), block.moment("test_start")
    end = block.moment("test_end") if block.values.get("test_end") is not None else None
    if not start < middle or (end is not None and not middle < end):
        raise UsageError(f"{block.where}: validation_start, test_start and test_end must rise; found {block.values}.")
    return SplitRule(validation_start=start, test_start=middle, test_end=end)
