"""The `table:` block of a schema file: how a user's own files become rows of the schema.

It declares values and nothing else. A rule is a column, or a column compared with a number or word: there is no
expression language, so nothing that stands in a schema file can run.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from recsys.datasets.history import HistoryFeature, HistoryKind, HistoryScope
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.datasets.table_forms import CsvForm, csv_form, time_format
from recsys.errors import UsageError
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.schema import FeatureKind, FeatureSchema

TIME_UNITS = {"timestamp": 0, "seconds": 1_000_000, "ms": 1000, "us": 1}
"""Unit of a time column, with its microseconds; `timestamp` is a column that is one already."""

_SPLITS = (TRAIN, VALIDATION, TEST)
_COMPARISON = re.compile(r"^(?P<column>.+?)\s*(?P<operator>>=|<=|==|!=|>|<)\s*(?P<value>[^<>=!]+)$")


@dataclass(frozen=True)
class LabelRule:
    """Label 1 where `column` stands in the relation `operator` to `value`; with no operator, the column's own 0 or 1.

    >>> LabelRule.parse("rating > 3")
    LabelRule(column='rating', operator='>', value=3.0)
    >>> LabelRule.parse("clicked")
    LabelRule(column='clicked', operator='', value='')
    """

    column: str
    operator: str = ""
    value: float | str = ""

    @classmethod
    def parse(cls, text: str) -> "LabelRule":
        """Read "column" or "column > value"; a value that is no number is a word, and may be quoted."""
        if not (match := _COMPARISON.match(text.strip())):
            return cls(text.strip())
        word = match["value"].strip()
        try:
            value: float | str = float(word)
        except ValueError:
            value = word.strip("'\"")
        return cls(match["column"].strip(), match["operator"], value)


@dataclass(frozen=True)
class SegmentRule:
    """The segment of a row, from `column`.

    With `bins`, rising numbers b1, b2, ...: the first segment below b1, the second from b1 to below b2, and so on.
    With `names`: raw value -> segment. With neither, the column's values are the segments' names.
    """

    column: str
    bins: tuple[float, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitRule:
    """Which rows are train, validation and test, where the files do not say it.

    With a `column`: raw value -> split. Otherwise by time: train before `validation_start`, validation before
    `test_start`, test before `test_end` (None: to the end). Rows outside every split are left out and counted.
    """

    column: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    validation_start: datetime.datetime | None = None
    test_start: datetime.datetime | None = None
    test_end: datetime.datetime | None = None


@dataclass(frozen=True)
class TableLayout:
    """The parsed block.

    Attributes:
        files: split -> patterns below the raw folder; the one key "" where a split rule says the split.
        columns: name in the schema -> name in the files, where the two differ.
        missing: feature -> the value, as text, that stands for "not known" in the files.
        time_format: how times that are text are written, as strptime has it; empty: as ISO 8601 has it.
        csv: how CSV files are written.
        lists: sparse list -> (text column, separator); words: sparse list -> text column, cut into lower-case words.
    """

    files: Mapping[str, tuple[str, ...]]
    label: LabelRule
    time_column: str
    time_unit: str
    segment: SegmentRule
    splits: SplitRule | None
    columns: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    history_scope: HistoryScope = HistoryScope.LIVE
    history: tuple[HistoryFeature, ...] = ()
    time_format: str = ""
    csv: CsvForm = field(default_factory=CsvForm)


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
    return _layout(_Block(document["table"], where), schema)


def _layout(block: "_Block", schema: FeatureSchema) -> TableLayout:
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
    lists = block.inner("lists")
    entries = {name: lists.inner(name) for name in lists.values}
    for entry in entries.values():
        entry.require(("column", "separator"), required=("column", "separator"))
    scope, history = _history(block.inner("history"), schema)
    return TableLayout(
        files=files,
        label=LabelRule.parse(block.text("label")),
        time_column=time.text("column"),
        time_unit=time.choice("unit", tuple(TIME_UNITS)),
        segment=_segment(block.inner("segment"), schema),
        splits=_splits(block.inner("splits")) if "splits" in block.values else None,
        columns=block.inner("columns").texts(),
        missing={name: str(value) for name, value in block.inner("missing").values.items()},
        lists={name: (entry.text("column"), entry.text("separator")) for name, entry in entries.items()},
        words=block.inner("words").texts(),
        history_scope=scope,
        history=history,
        time_format=time_format(time.values, time.where),
        csv=_csv(block.inner("csv")),
    )


def _files(block: "_Block") -> dict[str, tuple[str, ...]]:
    found = block.values["files"]
    by_split = found if isinstance(found, dict) else {"": found}
    if isinstance(found, dict) and set(found) != set(_SPLITS):
        raise UsageError(f"{block.where}: `files` names the splits {list(found)}; expected {', '.join(_SPLITS)}.")
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


def _csv(block: "_Block") -> CsvForm:
    block.require(("encoding", "delimiter", "missing"), required=())
    return csv_form(block.values, block.where)


def _segment(block: "_Block", schema: FeatureSchema) -> SegmentRule:
    block.require(("column", "bins", "names"), required=("column",))
    if "bins" in block.values and "names" in block.values:
        raise UsageError(f"{block.where}: has both `bins` and `names`; expected one of them.")
    bins = block.values.get("bins", [])
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
    names = block.inner("names").texts()
    if unknown := sorted(set(names.values()) - set(schema.segments)):
        raise UsageError(f"{block.where}: names leads to `{unknown[0]}`; expected one of {', '.join(schema.segments)}.")
    return SegmentRule(block.text("column"), tuple(map(float, bins)), names)


def _splits(block: "_Block") -> SplitRule:
    if "column" in block.values:
        block.require(("column", *_SPLITS), required=("column", *_SPLITS))
        values: dict[str, str] = {}
        for split in _SPLITS:
            entry = block.values[split]
            for value in entry if isinstance(entry, list) else [entry]:
                if str(value) in values:
                    raise UsageError(f"{block.where}: the value {value!r} stands in two splits; expected one.")
                values[str(value)] = split
        return SplitRule(column=block.text("column"), values=values)
    block.require(("validation_start", "test_start", "test_end"), required=("validation_start", "test_start"))
    start, middle = block.moment("validation_start"), block.moment("test_start")
    end = block.moment("test_end") if block.values.get("test_end") is not None else None
    if not start < middle or (end is not None and not middle < end):
        raise UsageError(f"{block.where}: validation_start, test_start and test_end must rise; found {block.values}.")
    return SplitRule(validation_start=start, test_start=middle, test_end=end)


def _history(block: "_Block", schema: FeatureSchema) -> tuple[HistoryScope, tuple[HistoryFeature, ...]]:
    if not block.values:
        return HistoryScope.LIVE, ()
    block.require(("scope", "features"), required=("scope", "features"))
    scope = HistoryScope(block.choice("scope", tuple(HistoryScope)))
    entries = block.inner("features")
    declared = {feature.name: feature for feature in schema.features}
    features = []
    for name in entries.values:
        entry = entries.inner(name)
        kind = HistoryKind(entry.choice("kind", tuple(HistoryKind)))
        needs = {HistoryKind.MEAN: ("of", "prior_rows"), HistoryKind.RECENT: ("of", "length"), HistoryKind.COUNT: ()}
        optional = () if kind is HistoryKind.RECENT else ("folds",)
        entry.require(("kind", "by", *needs[kind], *optional), required=("kind", "by", *needs[kind]))
        is_list = name in declared and declared[name].kind is FeatureKind.SPARSE_LIST
        if name not in declared or is_list != (kind is HistoryKind.RECENT):
            raise UsageError(
                f"{entry.where}: the schema declares no feature of this name with kind "
                f"{'sparse_list' if kind is HistoryKind.RECENT else 'dense'}; a history feature needs one."
            )
        by = entry.values["by"]
        if not isinstance(by, list) or not by or not all(isinstance(column, str) for column in by):
            raise UsageError(f"{entry.where}: by is {by!r}; expected a list of columns such as [item_id].")
        features.append(
            HistoryFeature(
                name=name,
                kind=kind,
                by=tuple(by),
                of=entry.text("of") if "of" in entry.values else "",
                prior_rows=entry.number("prior_rows"),
                length=int(entry.number("length")),
                folds=_folds(entry, scope, schema.user) if "folds" in entry.values else 0,
            )
        )
    return scope, tuple(features)


def _folds(entry: "_Block", scope: HistoryScope, user: str) -> int:
    folds = entry.number("folds")
    if folds < 2 or folds != int(folds):
        raise UsageError(f"{entry.where}: folds is {folds:g}; expected a whole number from 2 up.")
    if scope is not HistoryScope.TRAIN_ONLY:
        raise UsageError(
            f"{entry.where}: folds stand in a history of scope {scope}; expected train_only. Counted over all other "
            "users whatever the time, a row would see labels that lie in its future."
        )
    if user in entry.values["by"]:
        raise UsageError(
            f"{entry.where}: by names `{user}`, but folds are dealt by user, so a training row would count nothing; "
            "expected no folds, or other columns in by."
        )
    return int(folds)


class _Block:
    """A mapping out of the schema file that knows where it stands, and refuses what it does not hold."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UsageError(f"{where}: is {values!r}; expected keys with values.")
        self.values: dict[str, Any] = {str(key): value for key, value in values.items()}
        self.where = where

    def require(self, known: tuple[str, ...], required: tuple[str, ...]) -> None:
        if unknown := [key for key in self.values if key not in known]:
            raise UsageError(f"{self.where}: unknown key `{unknown[0]}`; expected some of {', '.join(known)}.")
        if missing := [key for key in required if key not in self.values]:
            raise UsageError(f"{self.where}: the key `{missing[0]}` is missing; it has no default.")

    def inner(self, key: str) -> "_Block":
        return _Block(self.values.get(key, {}), f"{self.where}.{key}")

    def text(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str) or not value:
            raise UsageError(f"{self.where}.{key}: is {value!r}; expected text.")
        return value

    def texts(self) -> dict[str, str]:
        return {key: self.text(key) for key in self.values}

    def number(self, key: str) -> float:
        """A number from 0 up; 0 where the key is absent, which `require` allows only where it means nothing."""
        value = self.values.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UsageError(f"{self.where}.{key}: is {value!r}; expected a number from 0 up.")
        return float(value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.values.get(key)
        if value not in allowed:
            raise UsageError(f"{self.where}.{key}: is {value!r}; expected one of {', '.join(allowed)}.")
        return str(value)

    def moment(self, key: str) -> datetime.datetime:
        """A UTC date or time, without zone."""
        try:
            moment = datetime.datetime.fromisoformat(str(self.values[key]))
        except ValueError as error:
            raise UsageError(
                f"{self.where}.{key}: is {self.values[key]!r}; expected a UTC date or time such as 2011-07-01."
            ) from error
        return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment
