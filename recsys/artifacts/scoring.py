"""A finished ranker over a file of raw rows, batch by batch."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts.export import PROBABILITY
from recsys.artifacts.scorer import Scorer
from recsys.errors import CannotWriteError, DataError, UsageError
from recsys.files import ensure_writable
from recsys.progress import Progress, silent

_ROWS_PER_BATCH = 65_536
_TEXT_NAME = re.compile(r"\.(csv|tsv|txt|jsonl?|xlsx?)(\.(gz|bz2|xz|zst|zip))?$", re.IGNORECASE)


def score_file(
    scorer: Scorer, rows: Path, output: Path, progress: Progress = silent, share: tuple[int, int] = (0, 1)
) -> int:
    """Write the rows of a Parquet file with a `probability` beside them, whole or not at all; return how many.

    The rows keep their order, and their columns the types that they have.

    Args:
        share: (i, n): the i-th of n equal shares of the rows, one behind the other, and no others.

    Raises:
        UsageError: the output would take the input's place.
        DataError: the rows are missing or cannot be read, or one breaks the schema; names column and value.
        CannotWriteError: the output cannot be written; an older one stays as it was.
    """
    source = opened(rows)
    first, last = (source.metadata.num_rows * number // share[1] for number in (share[0], share[0] + 1))
    if not source.metadata.num_rows:
        raise DataError(f"{rows} has 0 rows: nothing to score.")
    if PROBABILITY in source.schema_arrow.names:
        raise DataError(f"{rows} has a column `{PROBABILITY}` already. Rename it, so that it is not taken for ours.")
    # Asked of no rows first: what all of them lack is said before anything is written.
    scorer.score(source.schema_arrow.empty_table())
    _require_another_file(output, rows)
    ensure_writable(output.parent)
    schema = source.schema_arrow.append(pa.field(PROBABILITY, pa.float64()))
    work = output.with_name(f".{output.name}.partial")
    done = 0
    try:
        with pq.ParquetWriter(work, schema, compression="zstd", write_page_checksum=True) as writer:
            for block in _blocks(source, rows, scorer.rows_per_read, first, last):
                scores = pa.array(scorer.score(block, first_row=first + done))
                writer.write_table(block.append_column(schema.field(PROBABILITY), scores))
                done += block.num_rows
                progress("scoring", done, last - first)
        # Only a whole file takes the name: a run that is killed leaves the older one, or none.
        os.replace(work, output)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {output}: {error.strerror or error}.") from error
    finally:
        work.unlink(missing_ok=True)
    return done


def opened(rows: Path) -> pq.ParquetFile:
    """Return the Parquet file of rows to score.

    Raises:
        DataError: it is none; says what it is.
    """
    if rows.is_dir():
        raise DataError(f"{rows} is a folder. Expected one Parquet file; score the files of a folder one by one.")
    if _TEXT_NAME.search(rows.name):
        raise DataError(
            f"{rows} is a text file. Expected Parquet, whose columns have types: text does not tell the id 007 from 7. "
            "Write the rows as Parquet (pandas: `read_csv(..., dtype={...}).to_parquet(...)`)."
        )
    try:
        return pq.ParquetFile(rows, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{rows} cannot be read as Parquet ({error}). Expected a Parquet file with the raw columns."
        ) from error


def partial_file(output: Path, number: int) -> Path:
    """Where a process leaves its share of an output, beside it."""
    return output.with_name(f".{output.name}.share-{number}.parquet")


def join_files(parts: Sequence[Path], output: Path) -> int:
    """Write the rows of some Parquet files, in order, into one, whole or not at all; return how many. The parts go.

    Raises:
        CannotWriteError: the output cannot be written; an older one stays as it was.
    """
    work, rows = output.with_name(f".{output.name}.partial"), 0
    try:
        with pq.ParquetWriter(work, pq.read_schema(parts[0]), compression="zstd", write_page_checksum=True) as writer:
            for part in parts:
                with pq.ParquetFile(part) as source:
                    for number in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(number))
                    rows += source.metadata.num_rows
        os.replace(work, output)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {output}: {error.strerror or error}.") from error
    finally:
        for path in (work, *parts):
            path.unlink(missing_ok=True)
    return rows


def _blocks(source: pq.ParquetFile, rows: Path, size: int, first: int, last: int) -> Iterator[pa.Table]:
    """Yield the rows from `first` to before `last` in blocks of `size`, whatever the file's row groups."""
    waiting, held = list[pa.RecordBatch](), 0
    try:
        for batch in _batches(source, min(size, _ROWS_PER_BATCH), first, last):
            waiting.append(batch)
            held += batch.num_rows
            if held >= size:
                yield pa.Table.from_batches(waiting)
                waiting, held = [], 0
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{rows} cannot be read to its end ({error}). Write it or copy it again.") from error
    if waiting:
        yield pa.Table.from_batches(waiting)


def _batches(source: pq.ParquetFile, size: int, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows from `first` to before `last`; row groups that hold none of them are not read."""
    groups, start, begins = list[int](), 0, 0
    for number in range(source.num_row_groups):
        rows = source.metadata.row_group(number).num_rows
        if start + rows <= first:
            begins = start + rows
        elif start < last:
            groups.append(number)
        start += rows
    place = begins
    for batch in source.iter_batches(batch_size=size, row_groups=groups) if first < last else ():
        own = batch.slice(max(0, first - place), max(0, last - max(place, first)))
        place += batch.num_rows
        if own.num_rows:
            yield own


def _require_another_file(output: Path, rows: Path) -> None:
    if _TEXT_NAME.search(output.name):
        raise UsageError(f"The output is called {output}, but it is written as Parquet. Give it a name as such.")
    if output.is_dir():
        raise UsageError(f"The output {output} is a folder; expected a file to write, such as {output}/scores.parquet.")
    if output.exists() and output.samefile(rows):
        raise UsageError(f"The output {output} is the input itself, which would be lost. Choose another name.")
