"""A finished ranker over a file of raw rows, batch by batch."""

import os
import re
from collections.abc import Iterator
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


def score_file(scorer: Scorer, rows: Path, output: Path, progress: Progress = silent) -> int:
    """Write the rows of a Parquet file with a `probability` beside them, whole or not at all; return how many.

    The rows keep their order, and their columns the types that they have.

    Raises:
        UsageError: the output would take the input's place.
        DataError: the rows are missing or cannot be read, or one breaks the schema; names column and value.
        CannotWriteError: the output cannot be written; an older one stays as it was.
    """
    source = opened(rows)
    total = source.metadata.num_rows
    if not total:
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
            for block in _blocks(source, rows, scorer.rows_per_read):
                scores = pa.array(scorer.score(block, first_row=done))
                writer.write_table(block.append_column(schema.field(PROBABILITY), scores))
                done += block.num_rows
                progress("scoring", done, total)
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


def _blocks(source: pq.ParquetFile, rows: Path, size: int) -> Iterator[pa.Table]:
    """Yield the rows in blocks of `size`, whatever the file's row groups."""
    waiting, held = list[pa.RecordBatch](), 0
    try:
        for batch in source.iter_batches(batch_size=min(size, _ROWS_PER_BATCH)):
            waiting.append(batch)
            held += batch.num_rows
            if held >= size:
                yield pa.Table.from_batches(waiting)
                waiting, held = [], 0
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{rows} cannot be read to its end ({error}). Write it or copy it again.") from error
    if waiting:
        yield pa.Table.from_batches(waiting)


def _require_another_file(output: Path, rows: Path) -> None:
    if _TEXT_NAME.search(output.name):
        raise UsageError(f"The output is called {output}, but it is written as Parquet. Give it a name as such.")
    if output.is_dir():
        raise UsageError(f"The output {output} is a folder; expected a file to write, such as {output}/scores.parquet.")
    if output.exists() and output.samefile(rows):
        raise UsageError(f"The output {output} is the input itself, which would be lost. Choose another name.")
