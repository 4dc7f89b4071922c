"""What the loader would do with some row groups, before it reads a row of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.streaming.parquet import ROWS_OF_A_PART
from recsys.streaming.shuffle import count_batches


@dataclass(frozen=True)
class LoadingPlan:
    """One epoch in one process.

    Attributes:
        groups_in_parts: row groups so large that they are read in parts, one after the other.
        groups_alone: row groups, or parts, with more rows than the shuffle buffer: each is permuted by itself.
        most_rows: in memory at one time: what `BatchStream.most_rows` tells, or all there are.
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
    group_rows: Sequence[int],
    *,
    batch_size: int,
    shuffle_buffer_rows: int,
    decode_threads: int,
    decoded_bytes_per_row: float,
) -> LoadingPlan:
    """Return what a shuffling `BatchStream` with these settings does.

    Args:
        group_rows: of each row group; at least one.
    """
    in_parts = [rows for rows in group_rows if is_read_in_parts(rows)]
    whole = [rows for rows in group_rows if not is_read_in_parts(rows)]
    pieces = [*whole, *(min(ROWS_OF_A_PART, rows - first) for rows in in_parts for first in _firsts(rows))]
    rows, largest = sum(pieces), max(pieces)
    pool = max(largest, shuffle_buffer_rows)
    # A pool that is being read, the next one being gathered, a row group in each thread, and two that borders may cut.
    most_rows = 2 * pool + (decode_threads + 2) * largest if decode_threads else pool + 2 * largest
    return LoadingPlan(
        rows=rows,
        row_groups=len(group_rows),
        batches=count_batches(rows, 1, batch_size),
        groups_in_parts=len(in_parts),
        groups_alone=sum(rows > shuffle_buffer_rows for rows in pieces),
        most_rows=min(rows, most_rows),
        most_bytes=round(min(rows, most_rows) * decoded_bytes_per_row),
    )


def is_read_in_parts(rows: int) -> bool:
    """Whether a row group of a local file is so large that the loader reads it in parts."""
    return rows > 2 * ROWS_OF_A_PART


def _firsts(rows: int) -> range:
    return range(0, rows, ROWS_OF_A_PART)
