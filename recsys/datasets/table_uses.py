"""What a table's columns are declared to be used for, which decides how text is read: CSV files have no types."""

from collections.abc import Iterator
from enum import IntEnum

from recsys.datasets.past import PastKind
from recsys.datasets.table_forms import TIMESTAMP
from recsys.datasets.table_layout import TableLayout
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import vector_element


class Use(IntEnum):
    """How a column is read; of several uses the one that asks most counts, which is the greatest."""

    ANY = 0
    """As numbers where all values are written as numbers, else as the words that they are."""
    WORDS = 1
    """As the words that they are."""
    NUMBER = 2
    TIME = 3


def uses_of(layout: TableLayout, schema: FeatureSchema) -> dict[str, Use]:
    """Return every column that the layout uses and does not compute, by the files' own names."""
    found: dict[str, Use] = {}
    for column, use in (*_roles(layout, schema), *_features(layout, schema), *_others(layout, schema)):
        if column not in layout.computed:
            found[column] = max(use, found.get(column, use))
    return found


def _features(layout: TableLayout, schema: FeatureSchema) -> Iterator[tuple[str, Use]]:
    for feature in schema.features:
        if feature.name in layout.texts:
            yield layout.texts[feature.name], Use.WORDS
        elif feature.name not in layout.computed:
            is_number = feature.kind is FeatureKind.DENSE
            yield layout.columns.get(feature.name, feature.name), Use.NUMBER if is_number else Use.ANY
            if vector := vector_element(feature.name):
                yield layout.columns.get(vector[0], vector[0]), Use.ANY


def _roles(layout: TableLayout, schema: FeatureSchema) -> Iterator[tuple[str, Use]]:
    if schema.weight:
        yield layout.columns.get(schema.weight, schema.weight), Use.NUMBER
    if layout.label:
        # A rule may compare words, and true and false may be words.
        is_number = not layout.label.operator or not isinstance(layout.label.value, str | bool)
        yield layout.label.column, Use.NUMBER if is_number else Use.ANY
    if schema.graded:
        yield schema.graded.column, Use.NUMBER
    segment = layout.segment
    yield segment.column, Use.NUMBER if segment.bins else Use.ANY if segment.names else Use.WORDS
    if layout.time:
        yield layout.time.column, Use.TIME if layout.time.unit == TIMESTAMP else Use.NUMBER
    if layout.position:
        yield layout.position, Use.ANY
    if layout.splits and layout.splits.column:
        yield layout.splits.column, Use.ANY


def _others(layout: TableLayout, schema: FeatureSchema) -> Iterator[tuple[str, Use]]:
    """Columns that are read on the way to others."""
    own = {*(feature.name for feature in schema.features), schema.label, schema.segment, "label", "segment"}
    for entry in layout.history.features.values():
        for name in {*entry.columns} - own:
            is_number = entry.kind in (PastKind.SUM, PastKind.MEAN) and name == entry.of
            yield name, Use.NUMBER if is_number else Use.ANY
    expressions = (*layout.expressions.values(), *layout.conditions)
    merged = (*layout.merge.by, *layout.merge.keep) if layout.merge else ()
    asked = (layout.query.column, *layout.query.keep) if layout.query else ()
    candidates = (layout.candidates.column,) if layout.candidates else ()
    sides = [
        side for rule in layout.tables.values() for side in (rule.key, *(() if rule.files else rule.columns.values()))
    ]
    read = [name for expression in expressions for name in expression.columns]
    for name in {*merged, *asked, *candidates, *sides, *read} - own - {""}:
        yield name, Use.ANY
