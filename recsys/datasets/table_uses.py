"""What a table's columns are declared to be used for, which decides how text is read: CSV files have no types."""

from collections.abc import Iterator
from enum import IntEnum

from recsys.datasets.history_features import HistoryKind
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
    """Return every column of the files that the layout uses, by the files' own names."""
    found: dict[str, Use] = {}
    for column, use in _uses(layout, schema):
        found[column] = max(use, found.get(column, use))
    return found


def _uses(layout: TableLayout, schema: FeatureSchema) -> Iterator[tuple[str, Use]]:
    counted = layout.history.features
    for feature in schema.features:
        if feature.name in layout.texts:
            yield layout.texts[feature.name], Use.WORDS
        elif feature.name not in counted:
            is_number = feature.kind is FeatureKind.DENSE
            yield layout.columns.get(feature.name, feature.name), Use.NUMBER if is_number else Use.ANY
            if vector := vector_element(feature.name):
                yield layout.columns.get(vector[0], vector[0]), Use.ANY
    if schema.weight:
        yield layout.columns.get(schema.weight, schema.weight), Use.NUMBER
    # A rule may compare words, and true and false may be words.
    is_number = not layout.label.operator or not isinstance(layout.label.value, str | bool)
    yield layout.label.column, Use.NUMBER if is_number else Use.ANY
    segment = layout.segment
    yield segment.column, Use.NUMBER if segment.bins else Use.ANY if segment.names else Use.WORDS
    yield layout.time.column, Use.TIME if layout.time.unit == TIMESTAMP else Use.NUMBER
    if layout.splits and layout.splits.column:
        yield layout.splits.column, Use.ANY
    own = {*(feature.name for feature in schema.features), schema.label, schema.segment, "label", "segment"}
    for past in layout.history.counted:
        for name in {*past.by, past.of} - own - {""}:
            yield name, Use.NUMBER if past.kind is HistoryKind.MEAN and name == past.of else Use.ANY
