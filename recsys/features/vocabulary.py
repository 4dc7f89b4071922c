"""Raw id -> row of an embedding table, fitted on the training split.

Row 0 belongs to every id that was never seen in training, so a vocabulary of n ids needs a table of n + 1 rows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError

UNKNOWN_ROW = 0
# A table of places costs 8 bytes each and is made once; Arrow's search hashes all ids again at every call.
_MOST_PLACES_PER_ID = 8


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one embedding table in the order of their rows.

    `ids` is an Arrow array without nulls or repeats, brought to strings or int64; `ids[i]` owns row i + 1.

    >>> vocabulary = Vocabulary.of("item_id", ["lamp", "mug"])
    >>> vocabulary.rows_of(["mug", "teapot"]).tolist()
    [2, 0]
    """

    table: str
    ids: pa.Array

    def __post_init__(self) -> None:
        whole = self.ids.combine_chunks() if isinstance(self.ids, pa.ChunkedArray) else self.ids
        if whole.null_count:
            raise DataError(f"The vocabulary of table `{self.table}` holds {whole.null_count} null ids; expected none.")
        object.__setattr__(self, "ids", whole.cast(pa.int64() if pa.types.is_integer(whole.type) else pa.string()))

    @classmethod
    def of(cls, table: str, ids: Sequence[str] | Sequence[int]) -> "Vocabulary":
        """Make a vocabulary of plain Python ids, which must be all strings or all integers."""
        return cls(table, pa.array(ids, type=pa.string() if ids and isinstance(ids[0], str) else pa.int64()))

    def __len__(self) -> int:
        """Number of table rows: one per id, and the unknown row."""
        return len(self.ids) + 1

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where any id, its type or the order differs."""
        digest = hashlib.sha256(f"{self.ids.type} {len(self.ids)} ".encode())
        if pa.types.is_integer(self.ids.type):
            digest.update(np.ascontiguousarray(self.ids.to_numpy(), dtype="<i8").data)
        else:
            # A slice shares its buffers with the whole, so only the bytes between its own offsets count; and lengths
            # instead of offsets, as those begin wherever the slice does.
            _, starts, text = self.ids.buffers()
            offsets = np.frombuffer(starts, dtype=np.int32)[self.ids.offset :][: len(self.ids) + 1]
            digest.update(np.diff(offsets).astype("<i4").data)
            digest.update(memoryview(text)[offsets[0] : offsets[-1]] if text is not None else b"")
        return digest.hexdigest()[:16]

    def rows_of(self, values: Sequence[str] | Sequence[int] | pa.Array) -> npt.NDArray[np.int64]:
        """Return each value's table row, `UNKNOWN_ROW` for nulls and values never seen; (n,) int64.

        Raises:
            DataError: the values cannot be ids of this table, as text cannot be where the ids are numbers.
        """
        try:
            found = values if isinstance(values, pa.Array) else pa.array(values)
            if pa.types.is_floating(found.type):
                # A cast takes 2^53 + 1 for 2^53; what floats may stand for ids is `plain_ids`'s to say.
                raise pa.ArrowTypeError(f"floating-point numbers ({found.type}) are no ids")
            wanted = found.cast(self.ids.type)
        except pa.ArrowException as error:
            raise DataError(
                f"Table `{self.table}` has ids of type {self.ids.type}, and these values are of another: {error}. Cast "
                "the column in the data, or fit the vocabulary to it again."
            ) from error
        if self._rows_by_id is not None:
            numbers = (pc.fill_null(wanted, -1) if wanted.null_count else wanted).to_numpy(zero_copy_only=False)
            # Read as unsigned, negative ids lie beyond all others: one bound leads both to the last, unknown place.
            places = np.minimum(numbers.view(np.uint64), np.uint64(len(self._rows_by_id) - 1))
            return self._rows_by_id[places]
        found = pc.index_in(wanted, value_set=self.ids)
        rows = pc.add(pc.fill_null(found.cast(pa.int64()), -1), 1)
        return np.asarray(rows.to_numpy(zero_copy_only=False), dtype=np.int64)

    @cached_property
    def _rows_by_id(self) -> npt.NDArray[np.int64] | None:
        """The row of id i at place i; None for strings, and for numbers so far apart that it would be mostly gaps."""
        if not pa.types.is_integer(self.ids.type) or not len(self.ids):
            return None
        numbers = self.ids.to_numpy()
        if numbers.min() < 0 or numbers.max() > _MOST_PLACES_PER_ID * len(numbers):
            return None
        rows = np.full(numbers.max() + 2, UNKNOWN_ROW, dtype=np.int64)
        rows[numbers] = np.arange(1, len(self))
        return rows

    def save(self, path: Path) -> None:
        """Write the columns `id` and `row` as Parquet."""
        rows = pa.array(np.arange(1, len(self)), type=pa.int64())
        pq.write_table(pa.table({"id": self.ids, "row": rows}), path, compression="zstd", write_page_checksum=True)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote; the file's stem names the table.

        Raises:
            DataError: the file is missing, torn, or its rows do not count up from 1.
        """
        try:
            table = pq.read_table(path, columns=["id", "row"], page_checksum_verification=True)
            rows, ids = table["row"].to_numpy(), table["id"]
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(
                f"Vocabulary file {path} cannot be read ({error}); expected Parquet with the columns `id` and `row`. "
                "Run `recsys prepare` again to make it."
            ) from error
        if not np.array_equal(rows, np.arange(1, len(rows) + 1)):
            raise DataError(
                f"Vocabulary file {path} does not number its rows 1, 2, 3, ...: every id would get another id's "
                "vector. Run `recsys prepare` again to make it."
            )
        return cls(path.stem, ids)
