"""Vectors made elsewhere, by id, into an embedding tower: read, checked, reduced, aligned to a vocabulary.

A sentence encoder's vectors of product titles are such a file. What was found and what was done to it goes into the
artifact's provenance as a receipt.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy import sparse

from recsys.errors import DataError
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary
from recsys.files import sha256_of_file
from recsys.towers.artifact import TowerArtifact
from recsys.towers.import_receipt import Traffic, receipt_of
from recsys.towers.missing_vectors import MissingVectors, with_missing_rows
from recsys.towers.tower_spec import TowerSpec, table_weight
from recsys.towers.vector_files import in_single_precision, precision_loss, read_stored_vectors, read_vectors


@dataclass(frozen=True)
class Reduction:
    """Vectors of `width` numbers made from longer ones.

    Attributes:
        vectors: (n, width) float32, of mean square 1.
        explained_variance: share of the longer vectors' variance that is kept; 1 where nothing was cut.
        scale: what every number was multiplied by, at the end.
    """

    vectors: npt.NDArray[np.float32]
    explained_variance: float
    scale: float


def import_tower(
    path: Path,
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    *,
    width: int,
    id_column: str,
    vector_column: str,
    missing: MissingVectors = "mean",
    attributes: sparse.csr_matrix | None = None,
    traffic: Traffic | None = None,
) -> TowerArtifact:
    """Make a tower of a file of vectors: one per item of the vocabulary.

    Args:
        path: `.parquet`, `.npy` or `.safetensors`; see `read_vectors`.
        vocabulary: of the table that the schema's item looks up.
        width: D; the file's vectors are cut to this many principal components, or kept as they are if equal.
        missing: what ids of the vocabulary without a vector get; `with_missing_rows` says what, and what `attributes`
            are, (rows of the table, A).
        traffic: of the table; the receipt tells coverage by rows where it is given.

    Raises:
        DataError: the file breaks one of the rules of `read_vectors`, its vectors are shorter than `width`, or no id in
            it is in the vocabulary.
    """
    ids, stored = read_stored_vectors(path, id_column, vector_column)
    vectors = in_single_precision(stored, path)
    rows = _rows_of(ids, vocabulary, path)
    _require_known(rows, ids, vocabulary, path, id_column)
    is_known = rows != UNKNOWN_ROW
    reduced = reduce_width(vectors[is_known], width, str(path))
    has_vector = np.zeros(len(vocabulary), dtype=bool)
    has_vector[rows[is_known]] = True
    table = np.tile(reduced.vectors.mean(axis=0), (len(vocabulary), 1))
    table[rows[is_known]] = reduced.vectors
    table = with_missing_rows(table, has_vector, missing, attributes)
    found = int(is_known.sum())
    return TowerArtifact(
        spec=TowerSpec.imported(schema, width=width),
        weights={table_weight(vocabulary.table): torch.from_numpy(table)},
        provenance={
            "made_by": "import",
            "file": str(path),
            "file_sha256": sha256_of_file(path),
            "vectors_in_file": len(ids),
            "file_width": vectors.shape[1],
            "file_precision": str(stored.dtype),
            "largest_rounding_error": precision_loss(stored, vectors),
            "width": width,
            "explained_variance": reduced.explained_variance,
            "scale": reduced.scale,
            "ids_in_vocabulary": len(vocabulary.ids),
            "ids_with_vector": found,
            "ids_without_vector": len(vocabulary.ids) - found,
            "missing_vectors": missing,
            **receipt_of(table, has_vector, stored, vocabulary, traffic),
        },
    )


def with_imported_rows(
    table: torch.Tensor, vocabulary: Vocabulary, known_rows: int, path: Path, *, id_column: str, vector_column: str
) -> torch.Tensor:
    """Give new ids rows made of their vectors in the file, where it has them; return the table.

    A vector becomes a row by the affine map that takes the known ids' vectors nearest to their rows: exactly, up to
    rounding, where the rows are reduced vectors still, and by least squares where they have learnt since. Mikolov, Le
    and Sutskever ("Exploiting Similarities among Languages for Machine Translation", 2013, section 3) map one space of
    words into another so.

    Args:
        table: (rows, D) of the whole vocabulary; the first `known_rows` stay as they are.
        path: as for `import_tower`.

    Raises:
        DataError: the file breaks one of the rules of `read_vectors`.
    """
    ids, vectors = read_vectors(path, id_column, vector_column)
    rows = _rows_of(ids, vocabulary, path)
    is_known, is_new = (rows != UNKNOWN_ROW) & (rows < known_rows), rows >= known_rows
    if not is_known.any() or not is_new.any():
        return table
    inputs = np.column_stack([vectors.astype(np.float64), np.ones(len(vectors))])
    targets = table.numpy()[rows[is_known]].astype(np.float64)
    affine, *_ = np.linalg.lstsq(inputs[is_known], targets, rcond=None)
    grown = table.clone()
    grown[torch.from_numpy(rows[is_new])] = torch.from_numpy((inputs[is_new] @ affine).astype(np.float32))
    return grown


def reduce_width(vectors: npt.NDArray[np.float32], width: int, where: str) -> Reduction:
    """Cut vectors to their first `width` principal components, and scale them to mean square 1.

    Vectors of just that width are scaled only. The one scale for all numbers leaves angles and ratios of lengths as
    they were, and gives a layer above numbers of the size that it expects.

    Args:
        vectors: (n, W).
        where: the file, for the message.

    Raises:
        DataError: W < width, or fewer vectors than components.
    """
    count, source_width = vectors.shape
    if source_width < width or (source_width > width and count < width):
        raise DataError(
            f"{where} has {count} usable vectors of {source_width} numbers; `tower.width` {width} needs at least that "
            "many of both. Lower `tower.width`."
        )
    explained = 1.0
    if source_width > width:
        centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
        # eigh sorts upwards: the last columns are the directions of most variance.
        variances, directions = np.linalg.eigh(centred.T @ centred / count)
        axes = directions[:, ::-1][:, :width]
        # An axis may point either way; the sign is fixed so that one file gives one table on every machine.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])
        explained = float(variances[::-1][:width].sum() / max(variances.sum(), np.finfo(np.float64).tiny))
        vectors = (centred @ axes).astype(np.float32)
    scale = float(1 / max(np.sqrt(np.mean(np.square(vectors, dtype=np.float64))), np.finfo(np.float32).tiny))
    return Reduction((vectors * np.float32(scale)).astype(np.float32), explained, scale)


def _require_known(
    rows: npt.NDArray[np.int64], ids: pa.Array, vocabulary: Vocabulary, path: Path, id_column: str
) -> None:
    if not rows.any():
        raise DataError(
            f"None of the {len(ids)} ids in {path} (such as {ids[0].as_py()!r}) is an id of table `{vocabulary.table}` "
            f"(such as {vocabulary.ids[0].as_py() if len(vocabulary.ids) else 'none at all'!r}). Check that "
            f"`tower.id_column` ({id_column}) holds the same ids as the data."
        )


def _rows_of(ids: pa.Array, vocabulary: Vocabulary, path: Path) -> npt.NDArray[np.int64]:
    try:
        return vocabulary.rows_of(ids)
    except DataError as error:
        raise DataError(
            f"The ids in {path} are {ids.type} and cannot be compared with the data's. {error} Or point "
            "`tower.id_column` at the column that holds the data's ids."
        ) from error
