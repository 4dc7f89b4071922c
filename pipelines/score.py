"""Probabilities for raw rows in a Parquet file, by a finished run's served model."""

import argparse
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.console import console, progress_bars
from pipelines.serving import MODEL
from recsys.artifacts.export import PROBABILITY, load_served
from recsys.config import RunConfig
from recsys.errors import CannotWriteError, DataError
from recsys.files import ensure_writable
from recsys.progress import Progress

_ROWS_AT_A_TIME = 65_536


def run(model: Path, rows: Path, output: Path, progress: Progress) -> int:
    """Write the rows with a `probability` beside them; return how many.

    Raises:
        DataError: the model or the rows are missing, or a row breaks the schema; names column and value.
        CannotWriteError: the output cannot be written; an older one stays as it was.
    """
    if not (model / "MLmodel").is_file():
        raise DataError(f"There is no served model at {model}. Expected the folder of a run that finished.")
    try:
        source = pq.ParquetFile(rows)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{rows} cannot be read as Parquet ({error}). Expected a file with the raw columns.") from error
    ensure_writable(output.parent)
    served = load_served(model)
    work = output.with_name(f".{output.name}.partial")
    done, total = 0, source.metadata.num_rows
    writer: pq.ParquetWriter | None = None
    try:
        for batch in source.iter_batches(batch_size=_ROWS_AT_A_TIME):
            frame = batch.to_pandas()
            scored = pa.Table.from_batches([batch]).append_column(PROBABILITY, _scores(served.predict(frame)))
            writer = writer or pq.ParquetWriter(work, scored.schema, compression="zstd", write_page_checksum=True)
            writer.write_table(scored)
            done += batch.num_rows
            progress("scoring", done, total)
        if writer is None:
            raise DataError(f"{rows} has 0 rows: nothing to score.")
        writer.close()
        os.replace(work, output)
    except OSError as error:
        raise CannotWriteError(f"Cannot write {output}: {error.strerror}.") from error
    finally:
        work.unlink(missing_ok=True)
    return done


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Score, and say where the scores are."""
    output = Path(arguments.output)
    with progress_bars() as progress:
        rows = run(Path(arguments.run) / MODEL, Path(arguments.input), output, progress)
    console.print(f"Scored {rows:,} rows into {output}", soft_wrap=True)


def _scores(predicted: pd.DataFrame) -> pa.Array:
    return pa.array(predicted[PROBABILITY].to_numpy())
