"""What a folder of Parquet files holds, by the files' footers: rows, row groups, partitions, and sizes by column.

Any Parquet will do: rows of one's own, hive partitions, a single file, or what `recsys prepare` made.
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.encoded import open_encoded
from recsys.datasets.manifest import CONTRACT_NAME, VOCABULARY_FOLDER
from recsys.errors import DataError
from recsys.files import files_below
from recsys.progress import Progress, silent
from recsys.streaming.parquet import encoded_columns
from recsys.streaming.storage import Folder, open_folder

# Footers are small reads that mostly wait for the disk, so more threads than cores pay off.
_FOOTER_THREADS = 16
# Whose columns are looked into, spread over all: a folder may hold a hundred thousand.
_MOST_FILES_WITH_COLUMNS = 200


@dataclass(frozen=True)
class FileFacts:
    """One Parquet file: the columns that its folders name, its row groups' sizes, and its own columns as text."""

    path: str
    bytes: int
    partitions: Mapping[str, str | None]
    group_rows: tuple[int, ...]
    schema: str


@dataclass(frozen=True)
class ColumnFacts:
    """One column; of nested ones, one leaf.

    Attributes:
        path: in the file's schema, as `tags.list.element`.
        type: Arrow's name for it.
        codec: of most of its row groups.
        encodings: of the values; where a dictionary is among them, some pages may have none.
        is_read: whether the loader reads it.
    """

    path: str
    type: str
    codec: str
    encodings: tuple[str, ...]
    bytes_per_row: float
    is_read: bool


@dataclass(frozen=True)
class ParquetFacts:
    """What the footers say of one path.

    Attributes:
        files: those of the schema that has most rows, in natural order of their paths.
        other_files: all others.
        read_columns: names of the columns that the loader reads: the contract's in an encoded folder, all elsewhere.
    """

    path: Path
    files: Sequence[FileFacts]
    other_files: Sequence[FileFacts]
    columns: Sequence[ColumnFacts]
    read_columns: Sequence[str]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.group_rows)

    @property
    def group_rows(self) -> list[int]:
        """The rows of every row group that has any, file after file."""
        return [rows for file in self.files for rows in file.group_rows if rows]

    @property
    def middle_group_rows(self) -> int:
        """The median of the row groups' sizes."""
        return statistics.median_low(self.group_rows)

    @property
    def splits(self) -> dict[str, list[int]]:
        """The rows of the row groups of each split; under "" where no folder names one."""
        groups: dict[str, list[int]] = {}
        for file in self.files:
            groups.setdefault(file.partitions.get("split") or "", []).extend(filter(None, file.group_rows))
        return {split: group_rows for split, group_rows in groups.items() if group_rows}

    def summary(self) -> dict[str, Any]:
        """Return the facts as JSON values, without a line for every file."""
        groups = self.group_rows
        partitions: dict[str, set[str]] = {}
        for file in self.files:
            for name, value in file.partitions.items():
                partitions.setdefault(name, set()).add(str(value))
        return {
            "path": str(self.path),
            "rows": self.rows,
            "files": len(self.files),
            "bytes": sum(file.bytes for file in self.files),
            "other_files": [file.path for file in self.other_files],
            "partitions": {name: sorted(values) for name, values in partitions.items()},
            "row_groups": len(groups),
            "row_group_rows": {"least": min(groups), "middle": self.middle_group_rows, "most": max(groups)},
            "columns": [asdict(column) for column in self.columns],
        }


def inspect_parquet(path: Path, progress: Progress = silent) -> ParquetFacts:
    """Read the footers under a folder, or of one file.

    Raises:
        DataError: there is no Parquet file, none with rows, or a footer cannot be read; names the file.
    """
    folder, paths = _parquet_files(path)
    files: list[FileFacts] = []
    rows_of_schema: Counter[str] = Counter()
    with ThreadPoolExecutor(_FOOTER_THREADS, thread_name_prefix="recsys-footers") as threads:
        for file in threads.map(partial(_file_facts, folder), paths):
            files.append(file)
            rows_of_schema[file.schema] += sum(file.group_rows)
            progress("read footers", len(files), len(paths))
    schema, rows = rows_of_schema.most_common(1)[0]
    if not rows:
        raise DataError(f"{path}: {len(files)} Parquet files, all without rows; expected at least one row.")
    chosen = [file for file in files if file.schema == schema]
    others = [file for file in files if file.schema != schema]
    with_rows = [file.path for file in chosen if any(file.group_rows)]
    footers = [pq.read_metadata(file) for file in with_rows[:: -(-len(with_rows) // _MOST_FILES_WITH_COLUMNS)]]
    names = footers[0].schema.to_arrow_schema().names
    if (path / CONTRACT_NAME).is_file():
        read = encoded_columns(open_encoded(path).contract, ())
        names = [name for name in names if name in read]
    return ParquetFacts(path, chosen, others, list(_columns(footers, names)), names)


def _parquet_files(path: Path) -> tuple[Folder, Sequence[str]]:
    if path.is_file():
        return open_folder(path.parent), [str(path)]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; expected a Parquet file or a folder of them.")
    folder = open_folder(path)
    paths = folder.files("", ".parquet")
    if (path / CONTRACT_NAME).is_file():
        paths = [file for file in paths if Path(file).relative_to(path).parts[0] != VOCABULARY_FOLDER]
    if not paths:
        kinds = Counter(Path(name).suffix or Path(name).name for name in files_below(path))
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "no file"
        raise DataError(f"{path} holds no Parquet file (*.parquet); found {held}.")
    return folder, paths


def _file_facts(folder: Folder, path: str) -> FileFacts:
    try:
        with pq.ParquetFile(path) as file:
            footer, schema = file.metadata, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: its footer cannot be read ({error}); expected a Parquet file. It is empty, damaged, encrypted or "
            "was cut short: remove it, or write it again."
        ) from error
    group_rows = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
    layout = schema.remove_metadata().to_string(show_field_metadata=False)
    return FileFacts(path, Path(path).stat().st_size, folder.partitions(path), group_rows, layout)


def _columns(footers: Sequence[pq.FileMetaData], read: Sequence[str]) -> Iterator[ColumnFacts]:
    schema = footers[0].schema
    groups = [footer.row_group(index) for footer in footers for index in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    leaves = [(field.name, leaf) for field in schema.to_arrow_schema() for leaf in _leaf_types(field.type)]
    for place, (name, leaf) in enumerate(leaves):
        chunks = [group.column(place) for group in groups]
        yield ColumnFacts(
            path=schema.column(place).path,
            type=leaf,
            codec=Counter(chunk.compression for chunk in chunks).most_common(1)[0][0],
            encodings=_encodings(chunks),
            bytes_per_row=sum(chunk.total_compressed_size for chunk in chunks) / rows,
            is_read=name in read,
        )


def _leaf_types(kind: pa.DataType) -> list[str]:
    if not kind.num_fields:
        return [str(kind.value_type if pa.types.is_dictionary(kind) else kind)]
    return [leaf for place in range(kind.num_fields) for leaf in _leaf_types(kind.field(place).type)]


def _encodings(chunks: Sequence[pq.ColumnChunkMetaData]) -> tuple[str, ...]:
    listed = {encoding for chunk in chunks for encoding in chunk.encodings}
    # Every column lists the encoding of its levels, and PLAIN if it has a dictionary, which is itself written so.
    of_values = listed - {"RLE", "BIT_PACKED"}
    if of_values & {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}:
        of_values.discard("PLAIN")
    return tuple(sorted(of_values or listed))
