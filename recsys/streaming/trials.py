"""The same rows written in several ways, in memory, and what reading each of them costs.

How a file was written decides more of what decoding costs than how it is read, and it depends on the values: so advice
about it is measured on a sample of the very rows that it is about.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.streaming.inspection import Column, Inspection
from recsys.streaming.parquet import ROWS_OF_A_PART
from recsys.streaming.plan import is_read_in_parts

GROUP_ROWS = 131_072
"""Rows of a row group that decode fast: in smaller ones every column begins too often, larger ones leave the caches."""
_MOST_SAMPLED_GROUPS = 64
_REPEATS = 5
_GZIP_LEVEL = 6
_OWN_ENCODINGS = {"DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"}


@dataclass(frozen=True)
class Writing:
    """How rows are written. Columns are leaves, by their place in the schema.

    Attributes:
        codecs: one per leaf, by the footer's word.
        dictionary: the leaves that have one.
        encodings: of leaves that have neither a dictionary nor the plain encoding.
    """

    codecs: tuple[str, ...]
    dictionary: frozenset[int]
    encodings: Mapping[int, str]
    rows_per_group: int
    has_checksums: bool

    def with_codec(self, codec: str) -> "Writing":
        """The same with one codec for all."""
        return replace(self, codecs=(codec,) * len(self.codecs))


@dataclass(frozen=True)
class Cost:
    """What one way of writing costs.

    Attributes:
        bytes_per_row: on disk.
        decode_us_per_row: processor microseconds of one thread, all columns decoded, checksums verified.
    """

    bytes_per_row: float
    decode_us_per_row: float


@dataclass(frozen=True)
class Trial:
    """Rows and a way to write them."""

    rows: pa.Table
    writing: Writing


Clock = Callable[[], float]
"""Seconds of processor time of this thread."""


def as_written(inspection: Inspection) -> Writing:
    """Return how the inspected rows are written."""
    columns = inspection.columns
    return Writing(
        codecs=tuple(column.codec for column in columns),
        dictionary=frozenset(place for place, column in enumerate(columns) if column.dictionary_values is not None),
        encodings={place: encoding for place, column in enumerate(columns) if (encoding := _own_encoding(column))},
        rows_per_group=inspection.middle_group_rows,
        has_checksums=all(column.has_checksums for column in columns),
    )


def read_sample(inspection: Inspection, most_rows: int = GROUP_ROWS) -> pa.Table:
    """Read the sampled row group and, where it is small, those that follow it.

    Args:
        most_rows: that are read; of row groups that the loader reads in parts, three times as many.
    """
    if is_read_in_parts(inspection.middle_group_rows):
        most_rows *= 3
    groups = inspection.groups
    first = groups.index(inspection.sampled)
    # From a group near the end, those before it as well.
    first = max(0, min(first, len(groups) - -(-most_rows // max(1, inspection.middle_group_rows))))
    pieces: list[pa.RecordBatch] = []
    missing = most_rows
    for group in groups[first : first + _MOST_SAMPLED_GROUPS]:
        with pq.ParquetFile(group.path) as file:
            for piece in file.iter_batches(min(missing, GROUP_ROWS), row_groups=[group.index], use_threads=False):
                pieces.append(piece.slice(0, missing))
                missing -= len(pieces[-1])
                if not missing:
                    return pa.Table.from_batches(pieces).combine_chunks()
    return pa.Table.from_batches(pieces).combine_chunks()


def count_distinct(inspection: Inspection, sample: pa.Table) -> dict[str, int]:
    """Return how many different values each column has at least, by its path: in the sample, or by its dictionary."""
    found = {}
    leaves = [leaf for column in sample.columns for leaf in _leaf_arrays(column.combine_chunks())]
    for column, values in zip(inspection.columns, leaves, strict=True):
        # A dictionary array's indices are counted, as its values differ from each other.
        values = values.indices if pa.types.is_dictionary(values.type) else values
        try:
            counted = pc.count_distinct(values).as_py()
        except pa.ArrowNotImplementedError:  # of a type that Arrow cannot count, as string views
            counted = 0
        found[column.path] = max(counted, column.dictionary_values or 0)
    return found


def measure(trials: Sequence[Trial], clock: Clock = time.thread_time) -> list[Cost]:
    """Write every trial into memory and decode them in turns as the loader does; the least of five decodings counts."""
    files = [write(trial) for trial in trials]
    seconds = [float("inf")] * len(files)
    for _ in range(_REPEATS):
        for place, file in enumerate(files):
            seconds[place] = min(seconds[place], _decode_seconds(file, clock))
    return [
        Cost(file.size / trial.rows.num_rows, 1e6 * spent / trial.rows.num_rows)
        for trial, file, spent in zip(trials, files, seconds, strict=True)
    ]


def write(trial: Trial) -> pa.Buffer:
    """Return the rows as a Parquet file in memory."""
    writing, paths = trial.writing, _leaf_paths(trial.rows.schema)
    sink = pa.BufferOutputStream()
    codecs = {path: _writers_word(codec) for path, codec in zip(paths, writing.codecs, strict=True)}
    pq.write_table(
        trial.rows,
        sink,
        compression=codecs,
        # No file tells the level. Arrow's own for gzip is 9, which most writers' is not, and takes seconds.
        compression_level={path: _GZIP_LEVEL for path, codec in codecs.items() if codec == "GZIP"} or None,
        use_dictionary=[path for place, path in enumerate(paths) if place in writing.dictionary],
        column_encoding={paths[place]: encoding for place, encoding in writing.encodings.items()} or None,
        row_group_size=writing.rows_per_group,
        write_page_checksum=writing.has_checksums,
    )
    return sink.getvalue()


def bytes_of_leaves(file: pa.Buffer) -> list[int]:
    """Return the compressed bytes of each leaf of a file in memory."""
    footer = pq.read_metadata(pa.BufferReader(file))
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    return [
        sum(group.column(place).total_compressed_size for group in groups) for place in range(groups[0].num_columns)
    ]


def _leaf_arrays(array: pa.Array) -> list[pa.Array]:
    kind = array.type
    if pa.types.is_struct(kind):
        return [leaf for part in array.flatten() for leaf in _leaf_arrays(part)]
    if pa.types.is_map(kind):
        return [*_leaf_arrays(array.keys), *_leaf_arrays(array.items)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaf_arrays(array.flatten())
    return [array]


def _decode_seconds(file: pa.Buffer, clock: Clock) -> float:
    began = clock()
    with pq.ParquetFile(pa.BufferReader(file), page_checksum_verification=True, pre_buffer=False) as reader:
        for index in range(reader.num_row_groups):
            if is_read_in_parts(reader.metadata.row_group(index).num_rows):
                for _ in reader.iter_batches(ROWS_OF_A_PART, row_groups=[index], use_threads=False):
                    pass
            else:
                reader.read_row_group(index, use_threads=False)
    return clock() - began


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """The leaves' paths as this writer calls them; other writers name a list's inner field otherwise."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    written = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [written.column(place).path for place in range(len(written))]


def _own_encoding(column: Column) -> str | None:
    return next((encoding for encoding in column.encodings if encoding in _OWN_ENCODINGS), None)


def _writers_word(codec: str) -> str:
    return {"UNCOMPRESSED": "NONE", "LZ4_RAW": "LZ4", "LZO": "NONE"}.get(codec, codec)
