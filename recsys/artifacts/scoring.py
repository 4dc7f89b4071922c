"""A served model over a Parquet file of raw rows, batch by batch."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts.export import PROBABILITY
from recsys.errors import CannotWriteError, DataError
from recsys.files import ensure_writable
from recsys.progress import Progress, silent

_ROWS_AT_A_TIME = 65_536


def score_parquet(
    predict: Callable[[pd.DataFrame], pd.DataFrame], rows: Path, output: Path, progress: Progress = silent
) -> int:
    """Write the rows of a file with a `probability` beside them, whole or not at all; return how many.

    Args:
        predict: a served model's: raw rows in, a frame with the column `probability` out.

    Raises:
        DataError: the rows are missing, or one breaks the schema; names column and value.
        CannotWriteError: the output cannot be written; an older one stays as it was.
    """
    try:
        source = pq.ParquetFile(rows)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{rows} cannot be read as Parquet ({error}). Expected a Parquet file with the raw columns."
        ) from error
    total = source.metadata.num_rows
    if not total:
        raise DataError(f"{rows} has 0 rows: nothing to score.")
    if PROBABILITY in source.schema_arrow.names:
        raise DataError(f"{rows} has a column `{PROBABILITY}` already. Rename it, so that it is not taken for ours.")
    ensure_writable(output.parent)
    schema = source.schema_arrow.append(pa.field(PROBABILITY, pa.float64()))
    work = output.with_name(f".{output.name}.partial")
    done = 0
    try:
        with pq.ParquetWriter(work, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in source.iter_batches(batch_size=_ROWS_AT_A_TIME):
                scores = np.asarray(predict(batch.to_pandas())[PROBABILITY], dtype=np.float64)
                writer.write_batch(pa.record_batch([*batch.columns, pa.array(scores)], schema=schema))
                done += batch.num_rows
                progress("scoring", done, total)
        os.replace(work, output)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {output}: {error.strerror}.") from error
    finally:
        work.unlink(missing_ok=True)
    return done
