"""What the loader would do with some files, and which row groups and codec would be read faster or be smaller.

How a file was written decides more of what decoding costs than how it is read, and it depends on the values. So a
sample of the rows is written in memory as it is and in other ways, and all are decoded as the loader does it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import thread_time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.inspection.footers import ParquetFacts
from recsys.streaming.pools import most_rows_in_memory
from recsys.streaming.row_groups import ROWS_OF_A_PART, parts_of
from recsys.streaming.shuffle import count_batches

GROUP_ROWS = 131_072
"""Rows of a row group that decode fast: in smaller ones every column begins too often, larger ones leave the caches."""

_SMALL_GROUP = GROUP_ROWS // 4
# A gain of less is not worth writing data anew, and lies within what two timings of one file differ by.
_WORTH, _NO_WORSE = 0.95, 1.05
_CODECS = ("ZSTD", "LZ4", "SNAPPY", "NONE")
# What `write_table` calls the codecs of a footer. LZO it does not write.
_WRITERS_WORDS = {"UNCOMPRESSED": "NONE", "LZ4_RAW": "LZ4", "LZO": "NONE"}
_OTHER_ENCODINGS = {"DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"}
_MOST_SAMPLED_GROUPS = 64
# The least of so many decodings counts: whatever else the machine does only ever adds to a time.
_REPEATS = 5


@dataclass(frozen=True)
class ReadingCost:
    """What one way of writing costs: bytes on disk, and processor time of one thread that decodes all columns."""

    bytes_per_row: float
    decode_us_per_row: float

    def is_better_than(self, now: "ReadingCost") -> bool:
        """Whether it decodes or stores the rows noticeably cheaper, and does not pay as much by the other."""
        shares = (self.decode_us_per_row / now.decode_us_per_row, self.bytes_per_row / now.bytes_per_row)
        return min(shares) < _WORTH and max(shares) < _NO_WORSE


@dataclass(frozen=True)
class Advice:
    """One thing to change, the options that say so to `write_table`, and what reading costs with it alone."""

    subject: str
    found: str
    do: str
    writing: dict[str, Any]
    after: ReadingCost


@dataclass(frozen=True)
class MeasuredSample:
    """What reading a sample costs as it is written, in other codecs, and with all of the advice followed."""

    cost_now: ReadingCost
    cost_by_codec: Mapping[str, ReadingCost]
    advice: Sequence[Advice]
    cost_with_all_advice: ReadingCost


@dataclass(frozen=True)
class LoadingPlan:
    """One shuffled epoch in one process.

    Attributes:
        groups_in_parts: row groups so large that they are read in parts, one after the other.
        groups_alone: row groups, or parts, with more rows than the shuffle buffer: each is permuted by itself.
        most_rows: in memory at one time: `BatchStream.most_rows`, or all there are.
        most_bytes: of those rows, decoded.
    """

    rows: int
    row_groups: int
    batches: int
    groups_in_parts: int
    groups_alone: int
    most_rows: int
    most_bytes: int


def plan_loading(
    group_rows: Sequence[int], batch_size: int, shuffle_buffer_rows: int, decode_threads: int, bytes_per_row: float
) -> LoadingPlan:
    """Return what a shuffling `BatchStream` with these settings does.

    Args:
        group_rows: of each row group, all positive; at least one.
        bytes_per_row: decoded.
    """
    parts = [part for rows in group_rows for _, part in parts_of(rows)]
    rows, largest = sum(parts), max(parts)
    most_rows = min(rows, most_rows_in_memory(largest, max(largest, shuffle_buffer_rows), decode_threads))
    return LoadingPlan(
        rows=rows,
        row_groups=len(group_rows),
        batches=count_batches(rows, 1, batch_size),
        groups_in_parts=sum(len(parts_of(rows)) > 1 for rows in group_rows),
        groups_alone=sum(rows > shuffle_buffer_rows for rows in parts),
        most_rows=most_rows,
        most_bytes=round(most_rows * bytes_per_row),
    )


def read_sample(facts: ParquetFacts) -> pa.Table:
    """Read neighbouring row groups from the middle of the data, of the columns that the loader reads.

    Raises:
        DataError: a row group cannot be decoded; names the file.
    """
    middle = facts.middle_group_rows
    # Three row groups of the advised size, where the question is whether to write one as several.
    most_rows = GROUP_ROWS * (3 if len(parts_of(middle)) > 1 else 1)
    places = [(file.path, index) for file in facts.files for index, rows in enumerate(file.group_rows) if rows]
    count = min(len(places), _MOST_SAMPLED_GROUPS, -(-most_rows // middle))
    first = (len(places) - count) // 2
    batches: list[pa.RecordBatch] = []
    for path, index in places[first : first + _MOST_SAMPLED_GROUPS]:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(GROUP_ROWS, [index], facts.read_columns, use_threads=False):
                    batches.append(batch)
                    if sum(map(len, batches)) >= most_rows:
                        return pa.Table.from_batches(batches).slice(0, most_rows).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}, row group {index}: cannot be decoded ({error}). Write the file again.") from error
    return pa.Table.from_batches(batches).combine_chunks()


def as_written(facts: ParquetFacts, sample: pa.Table) -> dict[str, Any]:
    """Return how the columns that the loader reads are written."""
    # By the paths that this writer gives the leaves: others name a list's inner field otherwise.
    sink = pa.BufferOutputStream()
    pq.write_table(sample.schema.empty_table(), sink)
    schema = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    read = [column for column in facts.columns if column.is_read]
    columns = {schema.column(place).path: column for place, column in enumerate(read)}
    dictionaries = [path for path, column in columns.items() if any("DICT" in word for word in column.encodings)]
    others = {path: _OTHER_ENCODINGS.intersection(column.encodings) for path, column in columns.items()}
    return {
        "compression": {path: _WRITERS_WORDS.get(column.codec, column.codec) for path, column in columns.items()},
        "use_dictionary": dictionaries,
        "column_encoding": {path: min(encodings) for path, encodings in others.items() if encodings} or None,
        "row_group_size": facts.middle_group_rows,
    }


def write(sample: pa.Table, writing: dict[str, Any]) -> pa.Buffer:
    """Return the rows as a Parquet file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(sample, sink, write_page_checksum=True, **writing)
    return sink.getvalue()


def measure(sample: pa.Table, writings: Sequence[dict[str, Any]]) -> list[ReadingCost]:
    """Write the sample in every way, and decode the files in turns: the least of five decodings counts."""
    files = [write(sample, writing) for writing in writings]
    seconds = [float("inf")] * len(files)
    for _ in range(_REPEATS):
        for place, file in enumerate(files):
            began = thread_time()
            _decode(file)
            seconds[place] = min(seconds[place], thread_time() - began)
    rows = sample.num_rows
    return [ReadingCost(file.size / rows, 1e6 * spent / rows) for file, spent in zip(files, seconds, strict=True)]


def advise(facts: ParquetFacts, sample: pa.Table) -> MeasuredSample:
    """Measure a sample, as `read_sample` returned it, in other row groups and codecs, and advise what gains."""
    written, middle = as_written(facts, sample), facts.middle_group_rows
    in_groups: dict[str, Any] = {"row_group_size": GROUP_ROWS}
    in_codecs: list[dict[str, Any]] = [{"compression": codec} for codec in _CODECS]
    now, grouped, *costs = measure(sample, [written, *(written | change for change in (in_groups, *in_codecs))])
    advice = []
    is_huge = len(parts_of(middle)) > 1
    is_small = middle < _SMALL_GROUP and facts.rows > 2 * middle
    # Of huge row groups it is advised whatever it costs: only then can several threads decode at once.
    if is_huge or (is_small and grouped.is_better_than(now)):
        found = f"{len(facts.group_rows):,} of {middle:,} rows (the middle one) in {len(facts.files):,} files"
        why = ", which are read in parts, one after the other" if is_huge else ""
        do = f"write row groups of {GROUP_ROWS:,} rows" + ("; join files that are smaller" if is_small else "")
        advice.append(Advice("row groups", found + why, do, in_groups, grouped))
    better = [(cost, change) for cost, change in zip(costs, in_codecs, strict=True) if cost.is_better_than(now)]
    if better:
        cost, change = min(better, key=lambda pair: pair[0].decode_us_per_row * pair[0].bytes_per_row)
        found = f"compressed by {', '.join(sorted(set(written['compression'].values())))}"
        advice.append(Advice("codec", found, f"write with compression={change['compression']!r}", change, cost))
    together = advice[0].after if advice else now
    if len(advice) > 1:
        (together,) = measure(sample, [written | advice[0].writing | advice[1].writing])
    return MeasuredSample(now, dict(zip(_CODECS, costs, strict=True)), advice, together)


def _decode(file: pa.Buffer) -> None:
    """Decode a file as the loader does."""
    with pq.ParquetFile(pa.BufferReader(file), page_checksum_verification=True, pre_buffer=False) as reader:
        for index in range(reader.num_row_groups):
            if len(parts_of(reader.metadata.row_group(index).num_rows)) > 1:
                for _ in reader.iter_batches(ROWS_OF_A_PART, row_groups=[index], use_threads=False):
                    pass
            else:
                reader.read_row_group(index, use_threads=False)
