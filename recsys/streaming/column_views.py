"""Arrow arrays as numpy views on the same memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class ListView:
    """A column of lists: row i holds `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: (values,) every list's values, one list after the other.
        offsets: (rows + 1,) int32; need not begin at 0.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> "ListView":
        """Return the lists of some rows; only `start:stop` slices."""
        return ListView(self.values, self.offsets[rows.start : rows.stop + 1])

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(rows,) number of values in each list."""
        return np.diff(self.offsets)

    @property
    def flat(self) -> npt.NDArray[Any]:
        """(values,) of these rows alone."""
        return self.values[self.offsets[0] : self.offsets[-1]]

    def copy(self) -> "ListView":
        """Return the same lists in memory of their own, so that the rest of the column can be freed."""
        return ListView(self.flat.copy(), self.offsets - self.offsets[0])


ColumnView: TypeAlias = npt.NDArray[Any] | ListView


def view_of(array: pa.Array) -> ColumnView:
    """Return the array's values without copying them; the array must have no nulls.

    >>> view_of(pa.array([[1, 2], [], [3]], type=pa.list_(pa.int32()))).lengths
    array([2, 0, 1], dtype=int32)
    """
    return list_view(array) if pa.types.is_list(array.type) else number_view(array)


def list_view(array: pa.ListArray) -> ListView:
    """Return the view of an array of lists; see `view_of`."""
    return ListView(number_view(array.values), number_view(array.offsets))


def number_view(array: pa.Array) -> npt.NDArray[Any]:
    """Return the view of an array of numbers, (rows,); see `view_of`."""
    # By the buffer, as the first `to_numpy` of a process imports pandas, which takes a third of a second.
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return np.empty(0, array.type.to_pandas_dtype())
    return np.frombuffer(data, array.type.to_pandas_dtype(), len(array), array.offset * array.type.byte_width)


def gathered(array: pa.Array, places: pa.Array) -> ColumnView:
    """Return the array's values at (rows,) places, each of which must exist; the array must have no nulls.

    >>> gathered(pa.array([[1, 2], [], [3]], type=pa.list_(pa.int32())), pa.array([2, 0], pa.uint32())).values
    array([3, 1, 2], dtype=int32)
    """
    # Places come from a permutation; checking them again would cost a fifth of the gathering.
    if not pa.types.is_list(array.type):
        return view_of(pc.take(array, places, boundscheck=False))
    # As strings of bytes, for Arrow copies a string in one go but a list value by value, which takes twice as long.
    of_values = array.type.value_type
    ends = (number_view(array.offsets) + np.int64(array.values.offset)) * of_values.byte_width
    strings = pa.Array.from_buffers(
        pa.large_binary(), len(array), [None, pa.py_buffer(ends), array.values.buffers()[1]]
    )
    taken = pc.take(strings, places, boundscheck=False)
    ends = np.frombuffer(taken.buffers()[1], np.int64, len(taken) + 1)
    values = pa.Array.from_buffers(of_values, int(ends[-1]) // of_values.byte_width, [None, taken.buffers()[2]])
    return ListView(number_view(values), (ends // of_values.byte_width).astype(np.int32))


def numbers(columns: Mapping[str, ColumnView], name: str) -> npt.NDArray[Any]:
    """Return a column that has one number per row, (rows,): by the footers' types, it is no list."""
    return cast(npt.NDArray[Any], columns[name])
