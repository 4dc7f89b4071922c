"""The rows of one split, from any storage and any writer, as encoded columns, a row group at a time.

There are two kinds. Encoded rows, as `recsys prepare` writes them, are checked and passed on without a copy. Raw rows,
as a user's own systems write them, are encoded as they are read, through the vocabularies of data that were prepared
before. Both may lie in a local folder or behind a URI, and what the schema's policies did is counted for both.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from recsys.errors import DataError
from recsys.features.account import ROWS_DROPPED, Account
from recsys.features.contract import FeatureContract
from recsys.features.policy import Policy
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import Vocabulary
from recsys.streaming.checks import ValueChecks
from recsys.streaming.dropping import IS_DROPPED
from recsys.streaming.parquet import (
    Fetched,
    encoded_columns,
    layout_fingerprint,
    read_row_group,
    require_columns,
    row_groups_of_split,
)
from recsys.streaming.raw_columns import RawColumns
from recsys.streaming.read_ahead import ReadAhead
from recsys.streaming.row_groups import PartReader, RowGroup
from recsys.streaming.storage import Folder, open_folder

ReadRows: TypeAlias = Callable[[RowGroup], dict[str, pa.Array]]


@dataclass(frozen=True)
class RawRows:
    """Rows that were not prepared: Parquet files under the schema's own names, to be encoded while they are read.

    Files lie in any folders below `where`. A folder named `column=value` gives its rows that column; `split=` and
    `day=` choose files, and a folder that names no split holds rows of every one.

    Args:
        where: a folder, or a URI such as `s3://bucket/clicks`.
        vocabularies: one per embedding table of the contract.
    """

    where: str | os.PathLike[str]
    vocabularies: Mapping[str, Vocabulary]


class SplitRows:
    """The rows of one split, found, with every footer checked; see `open_rows`.

    Attributes:
        groups: the row groups with rows, in file order, which is time order.
        layout: a fingerprint of files and row groups; a position means the same rows only under it.
    """

    def __init__(
        self,
        columns: "RawColumns | _EncodedColumns",
        folder: Folder,
        split: str,
        days: Collection[str],
        schema: FeatureSchema,
    ) -> None:
        self._columns, self._folder = columns, folder
        self.groups = row_groups_of_split(folder, split, columns.paths(folder, split), days, columns.check)
        self.layout = layout_fingerprint(self.groups, folder.root)
        self.may_drop = Policy.DROP in schema.invalid.values()
        self._most_dropped = schema.most_dropped * sum(group.rows for group in self.groups)
        self._shown_cap = f"{schema.most_dropped:g} of the split's rows (`most_dropped` of the schema)"
        self._counts: Counter[str] = Counter()
        self._counts_of: dict[RowGroup, Counter[str]] = {}
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """What was corrected, dropped or unknown in the row groups read so far, each counted once; by name."""
        with self._lock:
            return dict(self._counts)

    @property
    def counts_by_group(self) -> dict[str, dict[str, int]]:
        """The same by row group, for processes that read some of them in common."""
        with self._lock:
            return {str(group): dict(counts) for group, counts in self._counts_of.items()}

    @contextmanager
    def reading(self, plan: Iterable[RowGroup]) -> Generator[ReadRows, None, None]:
        """Yield what reads a row group, from any thread.

        Args:
            plan: the row groups in the order in which they will be asked for. Remote ones are fetched ahead in it.
        """
        if self._folder.is_local:
            with closing(PartReader(plan)) as parts:
                yield partial(self._read, parts=parts)
            return
        with closing(ReadAhead(self._folder, self._columns.names, plan)) as ahead:

            def read(group: RowGroup) -> dict[str, pa.Array]:
                try:
                    fetched = ahead.get(group)
                except (OSError, pa.ArrowException) as error:
                    raise DataError(
                        f"{group}: cannot be fetched from {self._folder.shown} ({error}). Check that the file still "
                        "exists and that the storage answers, and start again."
                    ) from error
                return self._read(group, fetched)

            yield read

    def _read(
        self, group: RowGroup, fetched: Fetched | None = None, parts: PartReader | None = None
    ) -> dict[str, pa.Array]:
        columns = read_row_group(
            group, self._columns.names(group.path), fetched, self._columns.as_dictionaries(group.path), parts
        )
        account = Account(f"{group}, ", self._columns.invalid, group.rows)
        encoded = self._columns.encoded(group.path, columns, account)
        if account.counts:
            self._add(group, account)
        if self.may_drop:
            dropped = np.zeros(group.rows, np.int8) if account.dropped is None else account.dropped.view(np.int8)
            encoded[IS_DROPPED] = pa.array(dropped)
        return encoded

    def _add(self, group: RowGroup, account: Account) -> None:
        with self._lock:
            # Every epoch reads it again.
            if group in self._counts_of:
                return
            counts = self._counts_of[group] = Counter(account.counts)
            if account.dropped is not None:
                counts[ROWS_DROPPED] += int(np.count_nonzero(account.dropped))
            self._counts.update(counts)
            number = self._counts[ROWS_DROPPED]
        if number > self._most_dropped:
            raise DataError(
                f"{group}: with it, {number} rows are dropped, more than {self._shown_cap}; expected data that hold "
                f"fewer invalid values. Found so far: {account.counts}. Mend the data, or raise the cap."
            )


def open_rows(
    rows: str | os.PathLike[str] | RawRows,
    split: str,
    contract: FeatureContract,
    extras: Sequence[str],
    days: Collection[str],
) -> SplitRows:
    """Find a split's rows and check every file's columns from its footer alone.

    Args:
        rows: an encoded folder, as a path or URI, or raw rows.
        extras: the extra columns to read beside the schema's.
        days: only these UTC days of the split; all of them where empty.

    Raises:
        DataError: no rows, a damaged footer, a missing or retyped column, vocabularies of another contract.
        UsageError: an extra that the data do not carry, or an address that cannot be read.
    """
    if isinstance(rows, RawRows):
        folder = open_folder(rows.where)
        columns: RawColumns | _EncodedColumns = RawColumns(contract, rows.vocabularies, extras, folder)
    else:
        folder = open_folder(rows)
        columns = _EncodedColumns(contract, extras)
    return SplitRows(columns, folder, split, days, contract.schema)


class _EncodedColumns:
    """Rows as `recsys prepare` writes them; `RawColumns`, in whose place it stands, says what each member is."""

    def __init__(self, contract: FeatureContract, extras: Sequence[str]) -> None:
        self._types = encoded_columns(contract, extras)
        self._names = tuple(self._types)
        self._checks = ValueChecks(contract)
        self.invalid = self._checks.invalid

    def paths(self, folder: Folder, split: str) -> Sequence[str]:
        return folder.files(f"split={split}", ".parquet")

    def check(self, path: PurePath, found: pa.Schema) -> None:
        require_columns(path, found, self._types)

    def names(self, path: PurePath) -> Sequence[str]:
        return self._names

    def as_dictionaries(self, path: PurePath) -> Sequence[str]:
        return ()

    def encoded(self, path: PurePath, columns: dict[str, pa.Array], account: Account) -> dict[str, pa.Array]:
        return self._checks.checked(columns, account)
