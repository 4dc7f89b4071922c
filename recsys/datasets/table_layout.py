"""The `table:` block of a schema file: how a user's own files become rows of the schema.

It declares values, and expressions over columns that are checked word by word (`recsys/datasets/expressions.py`):
nothing that stands in a schema file reads, writes or calls anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, PlainValidator

from recsys.datasets.declared_examples import CandidateRule, NegativeRule, QueryRule, RankingRule
from recsys.datasets.declared_history import HistoryRule, Order, check_history
from recsys.datasets.declared_roles import LabelRule, SegmentRule, SplitRule, Values
from recsys.datasets.declared_tables import MergeRule, SideTable, patterns_of
from recsys.datasets.expressions import Expression, parse_expression
from recsys.datasets.label_leaks import check_own_labels
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.datasets.table_forms import CsvForm, TimeForm
from recsys.errors import UsageError, did_you_mean
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Named, Text
from recsys.features.plain_yaml import lines_named, plain_yaml, read_plain_yaml
from recsys.features.schema import FeatureSchema
from recsys.features.vectors import for_elements, vector_element

_SPLITS = (TRAIN, VALIDATION, TEST)
# Of fields that no document has.
_AS_IT_IS = PlainValidator(lambda value: value)


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
    each = found.items() if isinstance(found, Mapping) else [("", found)]
    return {split: patterns_of(entry) for split, entry in each}


@dataclass(frozen=True)
class TableLayout(Declaration):
    """The block.

    Attributes:
        files: of the events: split -> patterns below the raw folder; the one key "" where a split rule says the split.
        label: None: every event is a positive, and `negatives` are drawn.
        time, position: the column of times, or of places in a user's own order; neither: nothing is known of order.
        columns: name in the schema -> name in the files, where the two differ.
        missing: feature or weight -> the values that stand for "not known" in the files.
        csv: how CSV files are written.
        tables: side tables by name, joined to the events by a key.
        derive: column -> expression over columns of the files and features of the past.
        where: conditions that an event meets, or it is left out.
        lists: sparse list -> text column that holds it; words: sparse list -> text column, cut into lower-case words.
        archive: the publisher's archive that the raw folder may hold in place of the files: `recsys/datasets/archives`.
        text: of the schema file, which goes along with a ranker that is to read rows in the same way.
    """

    files: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_files)]
    segment: SegmentRule
    label: Annotated[LabelRule | None, PlainValidator(LabelRule.parse), Expected("text such as `rating > 3`")] = None
    time: Annotated[TimeForm | None, NOT_NULL] = None
    position: Text = ""
    splits: Annotated[SplitRule | None, NOT_NULL] = None
    columns: Named[Text] = field(default_factory=dict)
    missing: Named[Values] = field(default_factory=dict)
    lists: Named[ListedText] = field(default_factory=dict)
    words: Named[Text] = field(default_factory=dict)
    tables: Named[SideTable] = field(default_factory=dict)
    derive: Named[Text] = field(default_factory=dict)
    where: Annotated[Listed[Text], Expected("a list of conditions such as [quantity > 0]")] = ()
    merge: Annotated[MergeRule | None, NOT_NULL] = None
    query: Annotated[QueryRule | None, NOT_NULL] = None
    candidates: Annotated[CandidateRule | None, NOT_NULL] = None
    negatives: Annotated[NegativeRule | None, NOT_NULL] = None
    ranking: Annotated[RankingRule | None, NOT_NULL] = None
    history: HistoryRule = field(default_factory=HistoryRule)
    csv: CsvForm = field(default_factory=CsvForm)
    archive: Annotated[str, Expected("one of", ("movielens", "online_retail"))] = ""
    expressions: Annotated[Mapping[str, Expression], _AS_IT_IS] = field(default_factory=dict)
    conditions: Annotated[tuple[Expression, ...], _AS_IT_IS] = ()
    text: str = ""

    @property
    def texts(self) -> dict[str, str]:
        """Sparse list -> the text column that it is cut out of."""
        return {**{name: one.column for name, one in self.lists.items()}, **self.words}

    @property
    def order(self) -> Order:
        """What says which of two events was earlier."""
        return "time" if self.time else "position" if self.position else "none"

    @property
    def open_ended(self) -> Self:
        """The same without an end of what is measured: what happened since then is as much the past of later rows."""
        if self.splits is None or self.splits.test_end is None:
            return self
        return replace(self, splits=replace(self.splits, test_end=None))

    @property
    def computed(self) -> frozenset[str]:
        """Features of the past and derived columns: what no file holds."""
        return frozenset((*self.history.features, *self.derive))

    @cached_property
    def counted(self) -> frozenset[str]:
        """Features of the past, and derived columns that read one: what a row's own columns do not say."""
        past = self.history.features
        return frozenset((*past, *(name for name in self.expressions if reads_of(name, self) & set(past))))

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """All but what is made of the others."""
        known, required = super().keys(values)
        return [key for key in known if key not in ("text", "expressions", "conditions")], required

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
                "splits. `recsys init <file or folder>` writes one."
            )
        layout = cls.checked(document["table"], where)
        layout = replace(
            layout,
            expressions={name: parse_expression(one, f"{where}.derive.{name}") for name, one in layout.derive.items()},
            conditions=tuple(parse_expression(one, f"{where}.where") for one in layout.where),
        )
        check_layout(layout, schema, where)
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


def check_layout(layout: TableLayout, schema: FeatureSchema, where: str) -> None:
    """Refuse what the schema does not know, and what contradicts it.

    Raises:
        UsageError: names the key, what was found and what to write instead.
    """
    if ("" in layout.files) != (layout.splits is not None):
        raise UsageError(
            f"{where}: the splits are said by `files: {{train: ..., validation: ..., test: ...}}` or by "
            "`splits:`; exactly one of the two must do it."
        )
    if layout.time and layout.position:
        raise UsageError(f"{where}: has `time` and `position`; expected one of them to say the order.")
    _check_order(layout, where)
    _check_examples(layout, where)
    _check_segment(layout.segment, schema, f"{where}.segment")
    _check_names(layout, schema, where)
    label = tuple(rule.column for rule in (layout.label, schema.graded) if rule)
    labels = ("label", schema.label, *label)
    check_history(layout.history, schema, _read_names(layout), labels, layout.order, f"{where}.history")
    read = {name: reads_of(name, layout) for name in layout.expressions}
    check_own_labels(layout.history, schema.user, labels, read, f"{where}.history")
    for name in layout.derive:
        _require_no_circle(name, (), layout, f"{where}.derive")
        if name in layout.history.features:
            raise UsageError(f"{where}.derive: `{name}` stands under `history.features` too; expected one of them.")
        leak = [column for column in reads_of(name, layout) if column in labels]
        if leak and any(feature.name == name for feature in schema.features):
            raise UsageError(
                f"{where}.derive.{name}: reads `{leak[0]}`, which is the label or what it is made of: the feature "
                "would leak the answer. `history` can count earlier rows' values of a derived column."
            )
    for feature in (one for one in schema.features if one.name not in layout.computed):
        column = layout.texts.get(feature.name) or layout.columns.get(feature.name, feature.name)
        # The user and the item stand in every row whatever is asked of it.
        if column in label and feature.name not in (schema.user, schema.item):
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


def _require_no_circle(name: str, above: tuple[str, ...], layout: TableLayout, where: str) -> None:
    if name in above:
        raise UsageError(
            f"{where}.{name}: is made of itself, by way of {', '.join(above)}. Leave one of them out, or give the "
            "column another name than the one that it reads."
        )
    for part in layout.expressions[name].columns:
        if part in layout.expressions:
            _require_no_circle(part, (*above, name), layout, where)


def reads_of(name: str, layout: TableLayout) -> set[str]:
    """The columns that a derived column reads, itself or through other derived ones; features of the past end it."""
    found, open_names = set[str](), [name]
    while open_names:
        for column in layout.expressions[open_names.pop()].columns:
            if column not in found:
                found.add(column)
                if column in layout.expressions:
                    open_names.append(column)
    return found


def _read_names(layout: TableLayout) -> list[str]:
    """Names that expressions, features of the past and the segment read."""
    read = [column for expression in layout.expressions.values() for column in expression.columns]
    for entry in layout.history.features.values():
        read += [*entry.columns, entry.to]
    return [*read, layout.segment.column]


def _check_order(layout: TableLayout, where: str) -> None:
    """Refuse rules that need times, or an order, where the events have none."""
    order, splits = layout.order, layout.splits
    if order != "time":
        instead = "leave_last: 1 or " if order == "position" else ""
        if splits and splits.needs_times:
            raise UsageError(
                f"{where}.splits: `{splits.needs_times}` needs times, and `table.time` is not declared. Use "
                f"{instead}shares by row or by user."
            )
        if layout.query and layout.query.session:
            raise UsageError(f"{where}.query: `session` needs `table.time`. Use `next: event`, or a column.")
        if layout.candidates and layout.candidates.within:
            raise UsageError(f"{where}.candidates: `within` needs `table.time`. Use `top`, or leave it out.")
    if order == "none" and splits and splits.leave_last:
        raise UsageError(
            f"{where}.splits: `leave_last` needs an order. Declare `table.time` or `table.position`, or use shares by "
            "row or by user."
        )


def _check_examples(layout: TableLayout, where: str) -> None:
    """Refuse positives without negatives, and lists to rank that nothing makes."""
    if layout.label is None and layout.negatives is None:
        raise UsageError(
            f"{where}: has no `label`, so every event is a positive, and no `negatives`, so nothing tells positives "
            "from. Declare `negatives: {per_positive: 4}` and `query: {next: event}`, or a `label`."
        )
    if layout.label and layout.negatives:
        raise UsageError(f"{where}: has `label` and `negatives`; expected one, as labelled rows bring their own.")
    left_out = [name for name, entry in layout.history.features.items() if entry.leave_one_out]
    if left_out and layout.label is None:
        raise UsageError(
            f"{where}.history.features.{left_out[0]}: has `leave_one_out`, which leaves out the event that a row is. "
            "Without `label` a row is a query and an item, and no event. Expected `folds`, or the strict past."
        )
    for key in ("negatives", "ranking", "candidates"):
        if getattr(layout, key) is not None and layout.query is None:
            raise UsageError(
                f"{where}: has `{key}` and no `query`, which says what belongs together. Declare `query: {{next: "
                "event}}`, `query: {{session: 30m}}` or `query: {{column: <column>}}`."
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
    for key in ("missing", "other"):
        if (name := getattr(rule, key)) and name not in names:
            raise UsageError(
                f"{where}: `{key}` is {name}{did_you_mean(name, names)}; expected one of {', '.join(names)}."
            )


def _check_names(layout: TableLayout, schema: FeatureSchema, where: str) -> None:
    """Refuse names under which there is nothing that the files could hold."""
    lists = [feature.name for feature in schema.features if feature.is_list]
    _require_names(layout.lists, lists, "a list", f"{where}.lists")
    # Words are those that a text happens to have, so they agree with no other list element by element.
    alone = [name for name in lists if name not in schema.grouped_lists]
    _require_names(layout.words, alone, "a feature of kind sparse_list that stands beside no other", f"{where}.words")
    if both := sorted(set(layout.lists) & set(layout.words)):
        raise UsageError(f"{where}: `{both[0]}` stands under `lists` and under `words`; expected one of them.")
    # Features that are not computed, vectors by their own name and by their elements', and the weight.
    names = [feature.name for feature in schema.features if feature.name not in layout.computed]
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
