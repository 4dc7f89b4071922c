"""The files of a table source: found by pattern, compared with one another, and read as one table."""

import functools
from collections.abc import Mapping
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX

FILE_SPLIT = f"{OWN_PREFIX}table_file_split"
"""The column that `union_of_files` adds: the split that a row's file belongs to."""

_CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def matching_files(raw: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files below `raw` that the patterns name, each pattern's in the order of their names."""
    found: list[Path] = []
    for pattern in patterns:
        matches = [path for path in sorted(raw.glob(pattern)) if path.is_file()]
        if not matches:
            there = ", ".join(sorted(path.name for path in raw.iterdir())[:10]) if raw.is_dir() else "no such folder"
            raise DataError(
                f"{raw / pattern}: no such file (the folder {raw} holds: {there or 'nothing'}). Expected the files "
                "that the schema's `table.files` names: set `data.raw` to their folder."
            )
        found.extend(matches)
    for path in found:
        if not path.resolve().is_relative_to(raw.resolve()):
            raise DataError(f"{path} leads out of the raw folder {raw}; expected files that lie in it.")
        if not path.name.endswith((".parquet", *_CSV_SUFFIXES)):
            raise DataError(f"{path} has an unknown form; expected .parquet, {', '.join(_CSV_SUFFIXES)}.")
        if not path.stat().st_size:
            raise DataError(
                f"{path} is empty (0 bytes); expected rows. Write it again, or take it out of `table.files`."
            )
    return found


def require_equal_columns(paths: list[Path]) -> None:
    """Refuse Parquet files that differ in a column or its type, which readers otherwise mend in silence."""
    first: tuple[Path, dict[str, str]] | None = None
    for path in paths:
        if path.suffix != ".parquet":
            continue
        try:
            columns = {column.name: _plain_type(column.type) for column in pq.read_schema(path)}
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet ({error}). Write it or copy it again.") from error
        if first is None:
            first = path, columns
        for name, expected in first[1].items():
            if columns.get(name) != expected:
                raise DataError(
                    f"{path}: column `{name}` is {columns.get(name, 'missing')}; expected {expected}, as in "
                    f"{first[0]}. Write all files with the same columns and types."
                )


def _plain_type(form: pa.DataType) -> str:
    """The type's name with differences left out that change no value (large or dictionary-encoded strings)."""
    if pa.types.is_dictionary(form):
        return _plain_type(form.value_type)
    if pa.types.is_list(form) or pa.types.is_large_list(form):
        return f"list of {_plain_type(form.value_type)}"
    return "string" if pa.types.is_large_string(form) else str(form)


def union_of_files(connection: Backend, files: Mapping[str, list[Path]]) -> ir.Table:
    """All files as one table, with the split that their file gives them (null where a rule is to give it)."""
    tables = []
    for split, paths in files.items():
        for is_csv in (False, True):
            chosen = [str(path) for path in paths if (path.suffix != ".parquet") == is_csv]
            if not chosen:
                continue
            try:
                # The whole file decides the types of a CSV: a late `T8H` among postal codes is no error then.
                # NaN is declared, as DuckDB otherwise skips row groups whose statistics rule out a match.
                table = (
                    connection.read_csv(chosen, sample_size=-1)
                    if is_csv
                    else connection.read_parquet(chosen, can_have_nan=True)
                )
            except duckdb.Error as error:
                form = "CSV with a header" if is_csv else "Parquet"
                raise DataError(
                    f"{', '.join(chosen)} cannot be read ({error}). Expected {form} and the same columns in every file."
                ) from error
            tables.append(table.mutate(**{FILE_SPLIT: ibis.literal(split or None, type="string")}))
    first = tables[0]
    for other in tables[1:]:
        if set(other.columns) != set(first.columns):
            raise DataError(
                f"The files of one split have the columns {', '.join(other.columns[:-1])}, those of another "
                f"{', '.join(first.columns[:-1])}; expected the same in all."
            )
    return functools.reduce(lambda left, right: left.union(right.select(*first.columns)), tables)
