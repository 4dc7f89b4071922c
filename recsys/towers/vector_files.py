"""Reading ids and their vectors from Parquet, npy or safetensors, and refusing what cannot be a table of vectors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recsys.errors import DataError
from recsys.features.plain_arrays import plain_ids

Vectors = npt.NDArray[np.float32]
StoredVectors = npt.NDArray[np.floating]
# Vectors are compared with what single precision makes of them so many at a time.
_AT_ONCE = 65_536


def read_vectors(path: Path, id_column: str, vector_column: str) -> tuple[pa.Array, Vectors]:
    """Read ids and vectors.

    - `.parquet`: the two columns of those names; vectors are lists of numbers, all of one length.
    - `.safetensors`: the tensor `vector_column`, (n, W); ids in the integer tensor `id_column`, or in a file beside it.
    - `.npy`: the array, (n, W); ids in a file beside it.

    A file beside `titles.npy` is `titles.ids.npy`, `titles.ids.txt` (one id per line) or `titles.ids.json` (a list).
    Nothing is unpickled.

    Returns:
        n ids, and (n, W) float32.

    Raises:
        DataError: the file or a column is missing or torn; vectors of several lengths; a null or repeated id; a number
            that is not finite, or too large for single precision; another count of ids than of vectors.
    """
    ids, stored = read_stored_vectors(path, id_column, vector_column)
    return ids, in_single_precision(stored, path)


def read_stored_vectors(path: Path, id_column: str, vector_column: str) -> tuple[pa.Array, StoredVectors]:
    """Read ids and vectors (n, W) in the precision of the file; otherwise as `read_vectors`."""
    readers: dict[str, Callable[[Path, str, str], tuple[pa.Array, npt.NDArray]]] = {
        ".parquet": _read_parquet,
        ".npy": _read_npy,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise DataError(f"{path} is no file of vectors that can be read; expected one of {', '.join(readers)}.")
    try:
        ids, vectors = readers[path.suffix](path, id_column, vector_column)
    except (OSError, ValueError, OverflowError, pa.ArrowException, SafetensorError) as error:
        raise DataError(f"The vectors in {path} cannot be read: {error}. Export them again.") from error
    _check(ids, vectors, path)
    return ids, vectors


def in_single_precision(stored: StoredVectors, path: Path) -> Vectors:
    """Return vectors (n, W) as float32.

    Raises:
        DataError: a number is too large for it.
    """
    with np.errstate(over="ignore"):
        kept = stored.astype(np.float32, copy=False)
    if kept is not stored and not np.isfinite(kept).all():
        raise DataError(
            f"The vectors in {path} hold the number {np.abs(stored).max():.3g}; single precision ends at "
            f"{np.finfo(np.float32).max:.3g}. Scale them, or make them again."
        )
    return kept


def precision_loss(stored: StoredVectors, kept: Vectors) -> float:
    """Return the largest error of a number relative to itself, 1 where one was too small to be kept; both (n, W)."""
    if np.can_cast(stored.dtype, kept.dtype):
        return 0.0
    largest = 0.0
    for start in range(0, len(stored), _AT_ONCE):
        before, after = (each[start : start + _AT_ONCE].astype(np.float64) for each in (stored, kept))
        errors = np.divide(np.abs(after - before), np.abs(before), out=np.zeros_like(before), where=before != 0)
        largest = max(largest, float(errors.max()))
    return largest


def _check(ids: pa.Array, vectors: npt.NDArray, path: Path) -> None:
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating) or 0 in vectors.shape:
        raise DataError(
            f"The vectors in {path} are {vectors.dtype} of shape {vectors.shape}; expected floating-point numbers of "
            "shape (ids, width), both at least 1."
        )
    if len(ids) != len(vectors):
        raise DataError(f"{path} has {len(vectors)} vectors, but there are {len(ids)} ids; expected one id per vector.")
    if ids.null_count:
        raise DataError(f"{path} has {ids.null_count} vectors whose id is null. Drop those rows.")
    if len(ids.unique()) < len(ids):
        counts = pc.value_counts(ids)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise DataError(
            f"{path} has {len(ids) - len(ids.unique())} repeated ids, such as {repeated!r}; expected one vector per id."
        )
    not_finite = ~np.isfinite(vectors).all(axis=1)
    if not_finite.any():
        first = int(not_finite.argmax())
        raise DataError(
            f"{path} has {int(not_finite.sum())} vectors with a number that is not finite, the first that of id "
            f"{ids[first].as_py()!r}. Drop those rows, or make their vectors again."
        )


def _read_parquet(path: Path, id_column: str, vector_column: str) -> tuple[pa.Array, npt.NDArray]:
    names = pq.read_schema(path).names
    for key, column in (("tower.id_column", id_column), ("tower.vector_column", vector_column)):
        if column not in names:
            raise DataError(f"{path} has no column `{column}` (`{key}`); its columns are {', '.join(names)}.")
    table = pq.read_table(path, columns=[id_column, vector_column], page_checksum_verification=True)
    lists = table[vector_column].combine_chunks()
    if not (
        pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type) or pa.types.is_fixed_size_list(lists.type)
    ):
        raise DataError(f"Column `{vector_column}` of {path} is {lists.type}; expected a list of numbers per row.")
    if not pa.types.is_floating(lists.type.value_type):
        raise DataError(f"Column `{vector_column}` of {path} holds {lists.type.value_type}; expected float numbers.")
    lengths = pc.unique(pc.fill_null(pc.list_value_length(lists), -1)).to_pylist()
    if len(lengths) > 1:
        raise DataError(
            f"Column `{vector_column}` of {path} has lists of {sorted(lengths)[:5]} numbers (-1: null); expected one "
            "length for all."
        )
    numbers = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return _plain_ids(table[id_column].combine_chunks(), path), numbers.reshape(len(lists), sum(lengths))


def _read_npy(path: Path, id_column: str, vector_column: str) -> tuple[pa.Array, npt.NDArray]:
    return _ids_beside(path), np.load(path, allow_pickle=False)


def _read_safetensors(path: Path, id_column: str, vector_column: str) -> tuple[pa.Array, npt.NDArray]:
    tensors = load_file(path)
    if vector_column not in tensors:
        raise DataError(
            f"{path} has no tensor `{vector_column}` (`tower.vector_column`); its tensors are {', '.join(tensors)}."
        )
    ids = _plain_ids(pa.array(tensors[id_column]), path) if id_column in tensors else _ids_beside(path)
    return ids, tensors[vector_column]


def _ids_beside(path: Path) -> pa.Array:
    for candidate in (path.with_suffix(suffix) for suffix in (".ids.npy", ".ids.txt", ".ids.json")):
        if not candidate.is_file():
            continue
        if candidate.suffix == ".npy":
            return _plain_ids(pa.array(np.load(candidate, allow_pickle=False)), candidate)
        text = candidate.read_text(encoding="utf-8")
        ids = json.loads(text) if candidate.suffix == ".json" else text.splitlines()
        return _plain_ids(pa.array(ids), candidate)
    raise DataError(f"{path} has no ids: expected {path.stem}.ids.npy, .ids.txt or .ids.json beside it.")


def _plain_ids(ids: pa.Array, path: Path) -> pa.Array:
    """The ids as int64 or strings, the two types that a vocabulary may have."""
    ids = ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids
    is_number = pa.types.is_integer(ids.type) or pa.types.is_floating(ids.type) or pa.types.is_decimal(ids.type)
    return plain_ids(ids, pa.int64() if is_number else pa.string(), f"{path}: the column of ids")
