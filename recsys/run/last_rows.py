"""The last training row of each id, and how often and when the id is seen: what a tower's vectors are computed of."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.features.batch import Batch
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.inspection.item_rows import days_of_items, rows_of_ids
from recsys.run.streams import TRAIN, scoring_stream
from recsys.sharding.processes import ProcessContext
from recsys.towers.drift import Floats, Ints, stratified_sample
from recsys.towers.drift_groups import popularity_bins


@dataclass(frozen=True)
class LastRows:
    """The last training rows of n ids of a table.

    Attributes:
        ids: (n,) rows of the table, in the order of the batches.
        batches: the rows, on the CPU.
        rows: (S, n) training rows of each id by segment.
        popularity: (n,) group of `popularity_bins`.
        stands_for: (n,) how many ids of its group each stands for; 1 where none was left out.
        seen: ids that have training rows.
    """

    ids: Ints
    batches: tuple[Batch, ...]
    rows: Ints
    popularity: Ints
    stands_for: Floats
    seen: int


def last_rows(
    config: RunConfig, encoded: EncodedDataset, context: ProcessContext, feature: str, most: int, seed: int
) -> LastRows:
    """Find the last training row of each id of a sparse feature, or of `most` ids, drawn alike by popularity.

    One process calls it. A row that the schema's policies drop while rows stream takes its id with it.

    Raises:
        DataError: the training split has no rows, or a file is damaged.
    """
    counts = rows_of_ids(encoded, TRAIN, feature)
    total = counts.sum(axis=0)
    total[UNKNOWN_ROW] = 0
    seen = np.flatnonzero(total)
    popularity = popularity_bins(total[seen])[1]
    places, stands_for = stratified_sample(popularity, most, seed)
    wanted = seen[places]
    found, batches = list[Ints](), list[Batch]()
    for ids, batch in _taken(config, encoded, context, feature, wanted, total):
        found.append(ids)
        batches.append(batch)
    ids = np.concatenate(found) if found else np.empty(0, np.int64)
    order = np.searchsorted(wanted, ids)
    return LastRows(ids, tuple(batches), counts[:, ids], popularity[places][order], stands_for[order], len(seen))


def seen_days(encoded: EncodedDataset, rows: LastRows) -> tuple[Ints, Ints] | None:
    """Return the first and the last training day of each item, (n,) each, as places in the split's days.

    None where the rows are of one day, or have no times.
    """
    if len(encoded.days(TRAIN)) < 2:
        return None
    first, last = days_of_items(encoded, TRAIN)
    return first[rows.ids], last[rows.ids]


def _taken(
    config: RunConfig, encoded: EncodedDataset, context: ProcessContext, feature: str, wanted: Ints, total: Ints
) -> Iterator[tuple[Ints, Batch]]:
    """Yield ids, (n,), and their last rows."""
    left = np.zeros(len(total), np.int64)
    left[wanted] = total[wanted]
    alone = replace(context, rank=0, world_size=1, device=torch.device("cpu"))
    for batch in scoring_stream(config, encoded, TRAIN, alone):
        ids = batch.sparse[feature].values().numpy()
        # Turned round, so that the first of each id is its last.
        here, places, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
        is_over = left[here] == counts
        left[here] -= np.where(left[here] > 0, counts, 0)
        if is_over.any():
            rows = len(ids) - 1 - places[is_over]
            yield here[is_over].astype(np.int64), batch.take(torch.from_numpy(rows.astype(np.int64)))
