"""The receipt of imported vectors: whose rows they reach, what the numbers are like, what became of them.

It is plain JSON values, part of the tower's provenance, so that whoever finds a tower knows what is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.all_segments import ALL
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
# So many ids without a vector are named, those with most rows first.
_NAMED = 10


@dataclass(frozen=True)
class Traffic:
    """How often each id is the item of a row.

    Attributes:
        rows: split -> (S, rows of the table).
    """

    segments: tuple[str, ...]
    rows: Mapping[str, Ints]


def receipt_of(
    table: npt.NDArray[np.float32],
    has_vector: Bools,
    stored: npt.NDArray[np.floating],
    vocabulary: Vocabulary,
    traffic: Traffic | None,
) -> dict[str, Any]:
    """Return what is known of a table: coverage of ids, and of rows by split and segment; lengths of vectors.

    Args:
        table: (rows, D) as it was made.
        has_vector: (rows,).
        stored: the file's vectors, (n, W).
        traffic: None where no rows are at hand.
    """
    receipt = {
        "ids_with_vector_share": float(has_vector.sum() / len(vocabulary.ids)),
        "norms_in_file": norms_of(stored),
        "norms_in_table": norms_of(table[has_vector]),
    }
    if traffic is None:
        return receipt
    most_seen = most_seen_without(has_vector, traffic, vocabulary)
    return receipt | {"coverage": traffic_coverage(has_vector, traffic), "most_seen_without_vector": most_seen}


def traffic_coverage(has_vector: Bools, traffic: Traffic) -> dict[str, dict[str, dict[str, float]]]:
    """Say of every split, overall ("all") and by segment, how much has a vector.

    Args:
        has_vector: (rows of the table,).

    Returns:
        split -> segment -> "rows", "ids" among them, and the share of each whose item has a vector; a segment without
        rows is left out. Rows of unknown ids have none.
    """
    return {
        split: {
            segment: _coverage(has_vector, counts)
            for segment, counts in zip((ALL, *traffic.segments), (rows.sum(axis=0), *rows), strict=True)
            if counts.any()
        }
        for split, rows in traffic.rows.items()
    }


def most_seen_without(has_vector: Bools, traffic: Traffic, vocabulary: Vocabulary) -> list[list[str | int]]:
    """Name known ids that have no vector, with their rows in all splits, those with most first."""
    total = np.sum([rows.sum(axis=0) for rows in traffic.rows.values()], axis=0)
    is_missing = ~has_vector & (total > 0)
    is_missing[UNKNOWN_ROW] = False
    missing = np.flatnonzero(is_missing)
    order = missing[np.argsort(-total[missing], kind="stable")][:_NAMED]
    return [[vocabulary.ids[int(row) - 1].as_py(), int(total[row])] for row in order]


def norms_of(vectors: npt.NDArray[np.floating]) -> dict[str, float]:
    """The least, mean and largest length of vectors (n, W), and how many are zero."""
    norms = np.sqrt(np.einsum("nw,nw->n", vectors, vectors, dtype=np.float64))
    least, mean, largest = (float(each) for each in (norms.min(), norms.mean(), norms.max()))
    return {"least": least, "mean": mean, "largest": largest, "zero": int((norms == 0).sum())}


def _coverage(has_vector: Bools, counts: Ints) -> dict[str, float]:
    seen = counts > 0
    return {
        "rows": int(counts.sum()),
        "rows_with_vector_share": float(counts[has_vector].sum() / counts.sum()),
        "ids": int(seen.sum()),
        "ids_with_vector_share": float((seen & has_vector).sum() / seen.sum()),
    }
