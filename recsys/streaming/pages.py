"""The headers of a Parquet file's pages: what no footer tells.

Whether pages carry checksums, how many values a column's dictionary has, and in which encoding the data really lie:
a footer lists PLAIN for every column that has a dictionary, because the dictionary itself is written so, and does not
say whether the writer gave the dictionary up half-way. No page is read, only the bytes that stand before it.

Source: parquet.thrift of the Parquet format 2.11 (`PageHeader`), in Thrift's compact protocol.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from recsys.errors import DataError

_ENCODINGS = {
    0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY", 8: "RLE_DICTIONARY", 9: "BYTE_STREAM_SPLIT",
}  # fmt: skip
_DICTIONARY_ENCODINGS = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_DICTIONARY_PAGE = 2
# Fields of the structures.
_TYPE, _COMPRESSED_SIZE, _CHECKSUM, _DATA, _DICTIONARY, _DATA_V2 = 1, 3, 4, 5, 7, 8
_NUM_VALUES, _ENCODING, _ENCODING_V2 = 1, 2, 4
# Room for a header with the least and greatest value of a page in it, which may be long strings.
_HEADER_BYTES = 1 << 14


@dataclass(frozen=True)
class Pages:
    """The pages of one column in one row group.

    Attributes:
        encodings: of the data pages, in the order in which they first appear.
        dictionary_values: entries of the dictionary; None where there is none.
        has_checksums: whether every page has one.
    """

    count: int
    encodings: tuple[str, ...]
    dictionary_values: int | None
    has_checksums: bool

    @property
    def is_dictionary_whole(self) -> bool:
        """Whether every value stands in the dictionary, so that its entries are the column's distinct values."""
        return self.dictionary_values is not None and set(self.encodings) <= _DICTIONARY_ENCODINGS


def read_pages(path: Path, row_group: pq.RowGroupMetaData) -> dict[str, Pages]:
    """Return the pages of every column of one row group, by the column's path in the schema.

    Raises:
        DataError: the bytes where a header must stand are none; names file and column.
    """
    with path.open("rb") as file:
        return {
            row_group.column(position).path_in_schema: _pages_of(file, path, row_group.column(position))
            for position in range(row_group.num_columns)
        }


def _pages_of(file: BinaryIO, path: Path, column: pq.ColumnChunkMetaData) -> Pages:
    # Writers that have no dictionary page leave its place out or say 0.
    position = min(place for place in (column.dictionary_page_offset, column.data_page_offset) if place)
    end = position + column.total_compressed_size
    count, encodings, dictionary_values, has_checksums = 0, [], None, True
    while position < end:
        file.seek(position)
        try:
            header, size = _Compact(file.read(_HEADER_BYTES)).struct()
            position += size + header[_COMPRESSED_SIZE]
            encoding, values = _what(header)
        except (IndexError, KeyError, ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, column `{column.path_in_schema}`: no page header at byte {position}; expected one there, by "
                "the file's footer. The file is damaged: write it again."
            ) from error
        count += 1
        has_checksums = has_checksums and _CHECKSUM in header
        if header[_TYPE] == _DICTIONARY_PAGE:
            dictionary_values = values
        elif encoding not in encodings:
            encodings.append(encoding)
    return Pages(count, tuple(encodings), dictionary_values, has_checksums)


def _what(header: dict[int, Any]) -> tuple[str, int]:
    """The page's encoding and its number of values."""
    if _DATA_V2 in header:
        inner, place = header[_DATA_V2], _ENCODING_V2
    else:
        inner, place = header[_DICTIONARY] if header[_TYPE] == _DICTIONARY_PAGE else header[_DATA], _ENCODING
    return _ENCODINGS.get(inner[place], str(inner[place])), inner[_NUM_VALUES]


class _Compact:
    """A reader of Thrift's compact protocol over some bytes; structures become dictionaries by field number."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def struct(self) -> tuple[dict[int, Any], int]:
        """Return the structure that begins here, and how many bytes were read so far."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15)
        return fields, self._position

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                head = self._byte()
                count = head >> 4 if head >> 4 < 15 else self._unsigned()
                return [self._value(head & 15) for _ in range(count)]
            case 12:
                return self.struct()[0]
        raise ValueError(f"no type {kind} in a page header")

    def _integer(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)  # zigzag: 0, -1, 1, -2, ...

    def _unsigned(self) -> int:
        number, shift = 0, 0
        while (byte := self._byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
        return number | byte << shift

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _bytes(self, count: int) -> bytes:
        self._position += count
        if self._position > len(self._data):
            raise IndexError("the header ends beyond the bytes that were read")
        return self._data[self._position - count : self._position]
