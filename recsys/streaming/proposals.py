"""Other ways to write some rows, that may be better: guessed from the facts, to be measured by `advice.py`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.streaming.inspection import Column, Inspection
from recsys.streaming.plan import is_read_in_parts
from recsys.streaming.trials import GROUP_ROWS, Trial, Writing, bytes_of_leaves, write

ROW_GROUPS, DICTIONARY, NO_DICTIONARY = "row groups", "dictionary", "no dictionary"
CHECKSUMS, SMALL_IDS, SORTING = "page checksums", "int32 ids", "sort order"

_SMALL_GROUP = GROUP_ROWS // 4
_SHRUNK = 0.95
_QUICK_CODEC = "ZSTD"  # to see which columns shrink; others take seconds to write
_SORT_CANDIDATES, _MOST_DISTINCT_TO_SORT = 3, 0.5
_SORTABLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "string", "large_string")
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1


@dataclass(frozen=True)
class Proposal:
    """A way to write the rows that may be better.

    Attributes:
        change: what it does to the rows; None for nothing.
        other_gain: what it is good for beside speed; "" for nothing. With it, it is advised whatever it costs.
    """

    subject: str
    found: str
    do: str
    writing: Writing
    change: Callable[[pa.Table], pa.Table] | None = None
    other_gain: str = ""

    def trial(self, sample: pa.Table) -> Trial:
        """The sample, written like this."""
        return Trial(self.change(sample) if self.change else sample, self.writing)


def propose(
    inspection: Inspection, sample: pa.Table, distinct: Mapping[str, int], written: Writing
) -> Iterator[Proposal]:
    """Yield what may be better.

    Args:
        sample, distinct: as `read_sample` and `count_distinct` returned them.
        written: as `as_written` returned it.
    """
    yield from _row_groups(inspection, written)
    yield from _dictionary(inspection, sample, written)
    yield from _small_ids(inspection, written)
    yield from _sorting(inspection, sample, distinct, written)
    yield from _checksums(inspection, written)


def _row_groups(inspection: Inspection, written: Writing) -> Iterator[Proposal]:
    middle = written.rows_per_group
    is_small = middle < _SMALL_GROUP and inspection.rows > 2 * middle
    if not is_small and not is_read_in_parts(middle):
        return
    files = f"{len(inspection.files):,} files"
    found = f"{len(inspection.groups):,} row groups of {middle:,} rows (the middle one) in {files}"
    do = f"write row groups of {GROUP_ROWS:,} rows (row_group_size={GROUP_ROWS})"
    if is_small:
        do += "; where files are smaller than that, join them"
    yield Proposal(
        ROW_GROUPS,
        found,
        do,
        replace(written, rows_per_group=GROUP_ROWS),
        other_gain="" if is_small else "several threads can decode at once, and a shuffle mixes rows of more places",
    )


def _dictionary(inspection: Inspection, sample: pa.Table, written: Writing) -> Iterator[Proposal]:
    """Dictionaries where the columns without one shrink by them, and none where a writer gave them up half-way."""
    columns = inspection.columns
    without = {place for place in range(len(columns)) if place not in written.dictionary and columns[place].encodings}
    given_up = {place for place in written.dictionary if not columns[place].is_dictionary_whole}
    quick = written.with_codec(_QUICK_CODEC)
    before = bytes_of_leaves(write(Trial(sample, quick)))
    for subject, places, dictionary in (
        (DICTIONARY, without, written.dictionary | without),
        (NO_DICTIONARY, given_up, written.dictionary - given_up),
    ):
        if not places:
            continue
        encodings = {place: word for place, word in written.encodings.items() if place not in dictionary}
        after = bytes_of_leaves(write(Trial(sample, replace(quick, dictionary=dictionary, encodings=encodings))))
        shrunk = sorted(place for place in places if after[place] < _SHRUNK * before[place])
        if not shrunk:
            continue
        chosen = written.dictionary ^ frozenset(shrunk)
        names = names_of([columns[place] for place in shrunk])
        is_on = subject == DICTIONARY
        yield Proposal(
            subject,
            f"{names} {'without a dictionary' if is_on else 'with a dictionary that was given up half-way'}",
            f"write {'them with' if is_on else 'the others alone with'} a dictionary (use_dictionary=[...])",
            replace(
                written,
                dictionary=chosen,
                encodings={place: word for place, word in written.encodings.items() if place not in chosen},
            ),
        )


def _small_ids(inspection: Inspection, written: Writing) -> Iterator[Proposal]:
    wide = [column for column in inspection.columns if _fits_int32(column)]
    if not wide:
        return
    limited = "" if inspection.groups_with_statistics == len(inspection.groups) else ", as far as was looked"
    names = {column.path.split(".")[0] for column in wide}
    smallest, largest = min(column.minimum for column in wide), max(column.maximum for column in wide)
    yield Proposal(
        SMALL_IDS,
        f"{names_of(wide)} as int64, between {smallest:,} and {largest:,}{limited}",
        "write them as int32",
        written,
        lambda rows: _narrowed(rows, names),
    )


def _fits_int32(column: Column) -> bool:
    is_wide = column.type in ("int64", "uint64") and column.path.count(".") in (0, 2)  # flat, or a list of them
    return is_wide and column.minimum is not None and column.minimum >= _SMALLEST and column.maximum <= _LARGEST


def _narrowed(rows: pa.Table, names: set[str]) -> pa.Table:
    for place, field in enumerate(rows.schema):
        if field.name in names and (small := _small_type(field.type)) is not None:
            column = rows.column(place)
            try:
                rows = rows.set_column(place, field.name, column.cast(small))
            except pa.ArrowInvalid:  # a value beyond those whose row groups were looked at: it stays as it is
                continue
    return rows


def _small_type(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(kind):
        return pa.int32()
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
        return pa.list_(pa.int32())
    return None


def _sorting(
    inspection: Inspection, sample: pa.Table, distinct: Mapping[str, int], written: Writing
) -> Iterator[Proposal]:
    """The column by which the rows of a row group pack best, if any does."""
    candidates = [
        column
        for column in inspection.columns
        if not column.is_nested
        and column.type in _SORTABLE
        and 1 < distinct[column.path] <= _MOST_DISTINCT_TO_SORT * sample.num_rows
    ]
    candidates.sort(key=lambda column: -column.bytes_per_row)
    quick = written.with_codec(_QUICK_CODEC)
    try:
        sizes = {
            column.path: write(Trial(_sorted(sample, column.path, written.rows_per_group), quick)).size
            for column in candidates[:_SORT_CANDIDATES]
        }
    except pa.ArrowNotImplementedError:  # some column is of a type that Arrow cannot put in another order
        return
    if not sizes:
        return
    best = min(sizes, key=sizes.__getitem__)
    yield Proposal(
        SORTING,
        "rows in an order that hides what repeats",
        f"sort the rows of each row group by `{best}` before writing; the loader shuffles them all the same. Not where "
        "training takes rows in time order",
        written,
        lambda rows: _sorted(rows, best, written.rows_per_group),
    )


def _sorted(rows: pa.Table, column: str, rows_per_group: int) -> pa.Table:
    groups = np.arange(rows.num_rows) // rows_per_group
    values = rows.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    keys = pa.table({"group": groups, "value": values})
    return rows.take(pc.sort_indices(keys, [("group", "ascending"), ("value", "ascending")]))


def _checksums(inspection: Inspection, written: Writing) -> Iterator[Proposal]:
    if not written.has_checksums:
        yield Proposal(
            CHECKSUMS,
            "pages without checksums: a flipped bit is another id, or another number, and nobody is told",
            "write them (write_page_checksum=True); the loader verifies them where they stand",
            replace(written, has_checksums=True),
            other_gain="damage is found, and named, before it is learned from",
        )


def names_of(columns: Sequence[Column]) -> str:
    """Return the columns' names, of many only the first."""
    shown = ", ".join(f"`{column.path.split('.')[0]}`" for column in columns[:4])
    return shown if len(columns) <= 4 else f"{shown} and {len(columns) - 4} more"
