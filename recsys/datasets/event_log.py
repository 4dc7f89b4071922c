"""What happened, as every feature of the past is counted of it: the events with their times, labels and keys.

The same log serves the examples of training, rows to score, and lists of recommendations: what a row may know is
counted of it by one piece of code.
"""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from recsys.datasets.assigned_split import assigned_split, is_history
from recsys.datasets.computed_features import ComputedFeatures, own_name
from recsys.datasets.database import epoch_us
from recsys.datasets.declared_history import HistoryScope
from recsys.datasets.event_tables import RawEvents
from recsys.datasets.past import CONTRIBUTES, LABEL, MOMENT, ROW, UNIT, PastKind
from recsys.datasets.source import SPLIT, TRAIN
from recsys.datasets.staging import missing_or_infinite_as_null
from recsys.datasets.table_files import FILE_SPLIT, ROW_HASH
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX

TIME = f"{OWN_PREFIX}time"
IS_PAST = f"{OWN_PREFIX}is_past"
"""Whether an event lies before all splits."""


@dataclass(frozen=True)
class EventLog:
    """The events, stored.

    Attributes:
        rows: the columns that the past is counted by and of, under `own_name`, those of `recsys.datasets.past`, `TIME`,
            `SPLIT`, `IS_PAST`, and for explicit labels the row's features and roles too.
    """

    raw: RawEvents
    computed: ComputedFeatures
    rows: ir.Table


def event_columns(raw: RawEvents, computed: ComputedFeatures, shape: TableShape) -> dict[str, ir.Value]:
    """What every event has in the log; `shape` is the reading of the events with their side tables."""
    schema, layout = raw.schema, raw.layout
    time = shape.time()
    user = shape.feature(schema.user)
    split = event_split(shape)
    columns = {own_name(name): column for name, column in counted_columns(computed, shape).items()}
    # Without any order nothing is known to have been earlier.
    moment = ibis.null("int64") if layout.order == "none" else epoch_us(time)
    is_past = is_history(layout.splits, time) if layout.order == "time" else ibis.literal(False)
    is_known = (
        (split == TRAIN) | is_past if layout.history.scope is HistoryScope.TRAIN_ONLY else split.notnull() | is_past
    )
    label = shape.label()
    return columns | {
        ROW: ibis.row_number(),
        MOMENT: moment,
        CONTRIBUTES: is_known.fill_null(False),
        UNIT: user_key(user),
        LABEL: label.try_cast("float64"),
        TIME: time,
        SPLIT: split,
        IS_PAST: is_past,
    }


def counted_columns(computed: ComputedFeatures, shape: TableShape) -> dict[str, ir.Value]:
    """The columns of events that features of the past are counted by and of.

    Raises:
        DataError: one is missing, or of a type that cannot be counted so; names the feature.
    """
    past = computed.layout.history.features
    readers = {column: name for name, one in reversed(past.items()) for column in one.columns}
    found = {
        name: read_column(
            name, shape, f"the history feature `{readers[name]}`" if name in readers else "a derived column"
        )
        for name in computed.read
    }
    for name, one in past.items():
        by = [column for column in one.keyed_by if column in found and found[column].type().is_array()]
        most = 0 if one.kind is PastKind.RECENT else 1
        if len(by) > most:
            raise DataError(
                f"{shape.where}: the history feature `{name}` is counted by the lists {', '.join(by)}; expected "
                f"{'at most one list' if most else 'none'} among {list(one.keyed_by)}."
            )
        if one.kind in (PastKind.MEAN, PastKind.SUM) and one.of in found:
            form = found[one.of].type()
            if not (form.is_numeric() or form.is_boolean()):
                raise DataError(
                    f"{shape.where}: column `{one.of}` has type {form}; expected numbers, of which the history feature "
                    f"`{name}` is the {one.kind}."
                )
    return found


def event_split(shape: TableShape) -> ir.StringValue:
    """An event's split, as its file, a column or a rule says; null outside every split."""
    rule = shape.layout.splits
    if rule is None:
        return shape.raw[FILE_SPLIT]
    if rule.column:
        return shape.split_by_column(rule)
    user, item = shape.feature(shape.schema.user), shape.feature(shape.schema.item)
    return assigned_split(rule, shape.time(), user, [item], _identity(shape))


def _identity(shape: TableShape) -> ir.Value:
    return shape.raw[ROW_HASH] if ROW_HASH in shape.raw.columns else shape.feature(shape.schema.item)


def read_column(name: str, shape: TableShape, use: str = "a column of the table") -> ir.Value:
    """A column by its name in the schema, else in the files; `label` and `segment` are the declared ones."""
    schema, layout = shape.schema, shape.layout
    declared = {feature.name for feature in schema.features}
    if name in declared:
        return _plain_numbers(shape.feature(name))
    roles = {
        "label": (schema.label, layout.label.column if layout.label else "", shape.label),
        "segment": (schema.segment, layout.segment.column, shape.segment),
    }
    roles |= {schema.label: roles["label"], schema.segment: roles["segment"]}
    if name == schema.time and name not in shape.raw.columns:
        return shape.time()
    if name not in roles:
        return _plain_numbers(shape.column(name, use))
    role, source, read = roles[name]
    if name != role and name in shape.raw.columns and name != source:
        raise DataError(
            f"{shape.where}: `{name}` of {use} may be the declared {name}, which is made of `{source}`, or the files' "
            f"own column `{name}`. Write `{role}` for the declared one, or rename the column in the files."
        )
    return _plain_numbers(read())


def _plain_numbers(column: ir.Value) -> ir.Value:
    # NaN and infinity are no values, and one of them would be in every later mean.
    return missing_or_infinite_as_null(column) if column.type().is_floating() else column


def user_key(user: ir.Value) -> ir.IntegerValue:
    """A number per user: the id where it is one, else 62 bits of its hash; -1 for no user."""
    if user.type().is_integer():
        # Beyond 64 signed bits, where no id can be, is no user either.
        return user.try_cast("int64").fill_null(-1)
    # Asked of the user, as the hash of null is a number like any other.
    return user.isnull().ifelse(-1, user.hash() & ibis.literal(2**62 - 1))
