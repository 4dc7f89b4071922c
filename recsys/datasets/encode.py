"""Raw rows of a source -> an encoded folder: what train fits (vocabularies, scaling), and Parquet by split and day.

The rows pass through a DuckDB database inside the unfinished folder, so memory stays within `memory_limit` (and a few
batches) whatever their number. The same rows give the same bytes, whatever the number of threads.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch, stream, temporary_database
from recsys.datasets.fitting import fit_scaling, fit_vocabularies
from recsys.datasets.manifest import (
    CONTRACT_NAME,
    MANIFEST_NAME,
    VOCABULARY_FOLDER,
    Manifest,
    describe_files,
    part_path,
    rows_by_split,
)
from recsys.datasets.row_encoder import RowEncoder
from recsys.datasets.source import DAY, SPLIT, Source, SourceRows
from recsys.datasets.staging import stage
from recsys.errors import DataError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import Vocabulary
from recsys.files import published_directory
from recsys.progress import Progress, silent

ROW_GROUP_ROWS = 100_000
# Rows that one query sorts: enough to make the scan behind it cheap, few enough to sort in memory.
_ROWS_PER_PASS = 1_000_000
# A column in which more ids than this are negative or too large is the wrong column or a broken export.
_MAX_INVALID_SHARE = 0.01


def encode(
    source: Source,
    schema: FeatureSchema,
    target: Path,
    *,
    memory_limit: str,
    threads: int,
    progress: Progress = silent,
) -> FeatureContract:
    """Prepare a source's rows and publish them at `target`, whole or not at all.

    Args:
        target: the encoded folder; one that stands there is replaced once the new one is complete.
        memory_limit: what DuckDB may hold in memory, such as "2GB".

    Returns:
        The contract that was fitted, as it lies in `target`.

    Raises:
        DataError: the rows break the schema, or the training split has none; nothing is left behind.
        CannotWriteError: `target` cannot be written; said before any work.
    """
    with published_directory(target) as work:
        with temporary_database(work, memory_limit, threads) as connection:
            progress("read", 0, 0)
            rows = source.read(connection, schema, progress)
            progress("check", 0, 0)
            staged = stage(connection, rows, schema)
            progress("fit", 0, 0)
            vocabularies = fit_vocabularies(connection, staged, schema)
            contract = _contract(connection, staged, rows, schema, vocabularies)
            encoder = RowEncoder(contract, vocabularies)
            part_rows = _write_parts(connection, staged, encoder, work, progress)
        _require_few_invalid(encoder.counts, sum(part_rows.values()))
        _write_fitted(work, contract, vocabularies)
        _write_manifest(work, contract, rows, part_rows, encoder.counts)
    return contract


def _contract(
    connection: Backend,
    staged: ir.Table,
    rows: SourceRows,
    schema: FeatureSchema,
    vocabularies: Mapping[str, Vocabulary],
) -> FeatureContract:
    return FeatureContract(
        schema=schema,
        table_rows={table: len(vocabulary) for table, vocabulary in vocabularies.items()},
        vocabulary_fingerprints={table: vocabulary.fingerprint for table, vocabulary in vocabularies.items()},
        scaling=fit_scaling(connection, staged, schema),
        extras=rows.extras,
    )


def _write_parts(
    connection: Backend, staged: ir.Table, encoder: RowEncoder, work: Path, progress: Progress
) -> dict[tuple[str, str], int]:
    """Write one file per split and day; return its rows under (split, day)."""
    counted = staged.group_by([SPLIT, DAY]).aggregate(rows=staged.count()).order_by([SPLIT, DAY])
    part_rows = {(row[SPLIT], row[DAY].isoformat()): row["rows"] for row in fetch(connection, counted).to_pylist()}
    done, total = 0, sum(part_rows.values())
    for split, days in _passes(part_rows):
        wanted = (staged[SPLIT] == split) & staged[DAY].between(ibis.date(days[0]), ibis.date(days[-1]))
        ordered = _in_time_order(staged.filter(wanted), encoder.contract)
        with _PartWriters(work, split, encoder.arrow_schema) as writers:
            for batch in stream(connection, ordered, ROW_GROUP_ROWS):
                writers.write(encoder.encode(batch), batch[DAY])
                done += batch.num_rows
                progress("encode", done, total)
    return part_rows


def _passes(part_rows: dict[tuple[str, str], int]) -> Iterator[tuple[str, list[str]]]:
    """Yield runs of consecutive days of one split that hold about `_ROWS_PER_PASS` rows together."""
    split, days, rows = "", list[str](), 0
    for (next_split, day), count in part_rows.items():
        if days and (next_split != split or rows + count > _ROWS_PER_PASS):
            yield split, days
            days, rows = [], 0
        split, days, rows = next_split, [*days, day], rows + count
    if days:
        yield split, days


def _in_time_order(rows: ir.Table, contract: FeatureContract) -> ir.Table:
    # Rows of one query stay together, which packs well. The hash of the whole row breaks the remaining ties: rows that
    # it cannot tell apart are equal, so their order leaves no trace.
    query = ["query"] if "query" in contract.extras else []
    tie_break = ibis.struct({name: rows[name] for name in rows.columns}).hash()
    return rows.order_by([DAY, contract.schema.time, *query, tie_break])


class _PartWriters:
    """Writes batches that arrive day after day, one file a day, in row groups of `ROW_GROUP_ROWS`."""

    def __init__(self, work: Path, split: str, schema: pa.Schema) -> None:
        self._work, self._split, self._schema = work, split, schema
        self._day = ""
        self._waiting: list[pa.RecordBatch] = []
        self._files = ExitStack()

    def __enter__(self) -> "_PartWriters":
        return self

    def __exit__(self, *failure: object) -> None:
        if not any(failure):
            self._flush()
        self._files.close()

    def write(self, rows: pa.RecordBatch, days: pa.Array) -> None:
        numbers = days.cast(pa.int32()).to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1)]
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            day = days[int(start)].as_py().isoformat()
            if day != self._day:
                self._open(day)
            self._waiting.append(rows.slice(start, end - start))
            if sum(piece.num_rows for piece in self._waiting) >= ROW_GROUP_ROWS:
                self._flush(keep_rest=True)

    def _open(self, day: str) -> None:
        self._flush()
        self._files.close()
        path = self._work / part_path(self._split, day)
        path.parent.mkdir(parents=True)
        self._day = day
        self._writer = self._files.enter_context(
            pq.ParquetWriter(path, self._schema, compression="zstd", write_page_checksum=True)
        )

    def _flush(self, keep_rest: bool = False) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self._schema)
        rows = ROW_GROUP_ROWS if keep_rest else table.num_rows
        self._writer.write_table(table.slice(0, rows), row_group_size=ROW_GROUP_ROWS)
        self._waiting = table.slice(rows).to_batches()


def _require_few_invalid(counts: Counter[str], rows: int) -> None:
    for what, number in counts.items():
        if what.startswith("ids invalid") and number > _MAX_INVALID_SHARE * rows:
            raise DataError(
                f"Column `{what.partition(': ')[2]}`: {number} ids in {rows} rows are negative or beyond 64 bits; at "
                f"most {_MAX_INVALID_SHARE:.0%} may be (they get the unknown row). Check that the column holds ids, "
                "and leave it empty (null) where there is none."
            )


def _write_fitted(work: Path, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> None:
    (work / VOCABULARY_FOLDER).mkdir()
    for table, vocabulary in vocabularies.items():
        vocabulary.save(work / VOCABULARY_FOLDER / f"{table}.parquet")
    (work / CONTRACT_NAME).write_text(contract.to_json(), encoding="utf-8")


def _write_manifest(
    work: Path,
    contract: FeatureContract,
    rows: SourceRows,
    part_rows: dict[tuple[str, str], int],
    counts: Counter[str],
) -> None:
    manifest = Manifest(
        contract=contract.fingerprint,
        files=describe_files(work, {part_path(split, day): number for (split, day), number in part_rows.items()}),
        splits=rows_by_split(part_rows),
        source=rows.description,
        counts={**rows.counts, **dict(sorted(counts.items()))},
    )
    (work / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
