"""Raw rows of a source -> an encoded folder: what train fits (vocabularies, scaling), and Parquet by split and day.

The rows pass through a DuckDB database inside the unfinished folder, so memory stays within `memory_limit` (and a few
batches) whatever their number. The same rows give the same bytes, whatever the number of threads.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.encoded import open_encoded
from recsys.datasets.extremes import require_no_extremes
from recsys.datasets.finished_parts import FinishedPart
from recsys.datasets.fitting import fit_scaling, fit_vocabularies
from recsys.datasets.manifest import (
    CONTRACT_NAME,
    FINISHED_PARTS_NAME,
    MANIFEST_NAME,
    VOCABULARY_FOLDER,
    Manifest,
    describe_files,
    rows_by_split,
)
from recsys.datasets.partitions import write_partitions
from recsys.datasets.source import DAY, SPLIT, Source, SourceRows
from recsys.datasets.staging import stage
from recsys.errors import DataError
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.known_fit import KnownFit
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import Vocabulary
from recsys.files import published_directory, write_text_atomically
from recsys.progress import Progress, silent

# A column in which more ids than this are negative or too large is the wrong column or a broken export.
_MAX_INVALID_SHARE = 0.01


def encode(
    source: Source,
    schema: FeatureSchema,
    target: Path,
    *,
    memory_limit: str,
    threads: int,
    resume_key: str = "",
    progress: Progress = silent,
    known: KnownFit | None = None,
) -> FeatureContract:
    """Prepare a source's rows and publish them at `target`, whole or not at all.

    Args:
        target: the encoded folder; one that stands there is replaced once the new one is complete.
        memory_limit: what DuckDB may hold in memory, such as "2GB".
        resume_key: names the rows, the schema and the code. With it, partitions that a killed preparation of the same
            key finished are not made again; see `recsys.files.published_directory`.
        known: keeps the rows of its ids and its scaling; what it does not know is fitted to these rows.

    Returns:
        The contract that was fitted, as it lies in `target`.

    Raises:
        DataError: the rows break the schema, or the training split has none; nothing is left behind.
        CannotWriteError: `target` cannot be written; said before any work.
    """
    with published_directory(target, resume_key) as work:
        contract = _finished(work, progress) or _prepare(source, schema, work, memory_limit, threads, progress, known)
        (work / FINISHED_PARTS_NAME).unlink(missing_ok=True)
    return contract


def _finished(work: Path, progress: Progress) -> FeatureContract | None:
    """The contract of a folder whose preparation was killed when all was written; None where anything is missing."""
    # The manifest is written last.
    if not (work / MANIFEST_NAME).exists():
        return None
    try:
        encoded = open_encoded(work)
        encoded.require_intact(progress)
    except DataError:
        (work / MANIFEST_NAME).unlink()
        return None
    return encoded.contract


def _prepare(
    source: Source,
    schema: FeatureSchema,
    work: Path,
    memory_limit: str,
    threads: int,
    progress: Progress,
    known: KnownFit | None,
) -> FeatureContract:
    with temporary_database(work, memory_limit, threads) as connection:
        progress("read", 0, 0)
        rows = source.read(connection, schema, progress)
        progress("check", 0, 0)
        staged = stage(connection, rows, schema)
        progress("fit", 0, 0)
        vocabularies = fit_vocabularies(connection, staged.table, schema)
        scaling = fit_scaling(connection, staged.table, schema)
        if known is not None:
            vocabularies, scaling = known.grown(vocabularies), known.kept(scaling)
        contract = _contract(rows, schema, vocabularies, scaling)
        require_no_extremes(connection, staged, schema, contract.scaling)
        part_rows = _part_rows(connection, staged.table)
        parts = write_partitions(connection, staged, part_rows, contract, vocabularies, work, threads, progress)
    counts: Counter[str] = sum((Counter(part.counts) for part in parts.values()), Counter())
    _require_few_invalid(counts, sum(part_rows.values()))
    _write_fitted(work, contract, vocabularies)
    _write_manifest(work, contract, staged.source, part_rows, parts, counts)
    return contract


def _part_rows(connection: Backend, staged: ir.Table) -> dict[tuple[str, str], int]:
    """Rows of every (split, day), in this order."""
    counted = staged.group_by([SPLIT, DAY]).aggregate(rows=staged.count()).order_by([SPLIT, DAY])
    return {(row[SPLIT], row[DAY].isoformat()): row["rows"] for row in fetch(connection, counted).to_pylist()}


def _contract(
    rows: SourceRows,
    schema: FeatureSchema,
    vocabularies: Mapping[str, Vocabulary],
    scaling: Mapping[str, Scaling],
) -> FeatureContract:
    return FeatureContract(
        schema=schema,
        table_rows={table: len(vocabulary) for table, vocabulary in vocabularies.items()},
        vocabulary_fingerprints={table: vocabulary.fingerprint for table, vocabulary in vocabularies.items()},
        scaling=scaling,
        extras=rows.extras,
    )


def _require_few_invalid(counts: Counter[str], rows: int) -> None:
    for what, number in counts.items():
        if what.startswith("ids invalid") and number > _MAX_INVALID_SHARE * rows:
            raise DataError(
                f"Column `{what.partition(': ')[2]}`: {number} ids in {rows} rows are negative or beyond 64 bits; at "
                f"most {_MAX_INVALID_SHARE:.0%} may be (they get the unknown row). Check that the column holds ids, "
                "and leave it empty (null) where there is none."
            )


def _write_fitted(work: Path, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> None:
    (work / VOCABULARY_FOLDER).mkdir(exist_ok=True)
    for table, vocabulary in vocabularies.items():
        vocabulary.save(work / VOCABULARY_FOLDER / f"{table}.parquet")
    (work / CONTRACT_NAME).write_text(contract.to_json(), encoding="utf-8")


def _write_manifest(
    work: Path,
    contract: FeatureContract,
    rows: SourceRows,
    part_rows: dict[tuple[str, str], int],
    parts: Mapping[str, FinishedPart],
    counts: Counter[str],
) -> None:
    manifest = Manifest(
        contract=contract.fingerprint,
        files=describe_files(work, {path: part.entry for path, part in parts.items()}),
        splits=rows_by_split(part_rows),
        source=rows.description,
        counts={**rows.counts, **dict(sorted(counts.items()))},
    )
    write_text_atomically(work / MANIFEST_NAME, manifest.to_json())
