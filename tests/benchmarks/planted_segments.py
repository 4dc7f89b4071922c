"""Rows of users for whom a pre-trained tower is right, and of others for whom it is wrong, in one world."""

from dataclasses import dataclass

import numpy as np
import torch
from known_worlds import ELSEWHERE, HOME, Laboratory, whole_split
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.run import streams

CHOICE = "choice"
"""Validation rows by which rungs are chosen, more of them than training is stopped by."""


@dataclass(frozen=True)
class PlantedWorld:
    """How many training rows come from users for whom the tower is right, and from those for whom it is wrong."""

    right_rows: int
    wrong_rows: int
    batch_size: int
    epochs: int


class PlantedRows:
    """Rows of both kinds of users in memory; the first two segments are those for whom the tower is right."""

    def __init__(self, laboratory: Laboratory) -> None:
        self.encoded = laboratory.encoded(HOME)
        self.segments = self.encoded.contract.schema.segments
        self._test_users = laboratory.size.test_users
        self._right = {split: self._of_kind(laboratory, HOME, split) for split in SPLITS}
        self._wrong = {split: self._of_kind(laboratory, ELSEWHERE, split) for split in SPLITS}

    def drawn(self, world: PlantedWorld, number: int) -> dict[str, Batch]:
        """The rows of the study with that number, by split; those that choose are all validation rows there are."""
        generator = np.random.default_rng([number, 17])
        kinds = [
            (kind, rows) for kind, rows in ((self._right, world.right_rows), (self._wrong, world.wrong_rows)) if rows
        ]
        found = {}
        for split in SPLITS:
            parts = []
            for kind, rows in kinds:
                if split == streams.TEST:
                    parts.append(_of_some_users(kind[split], self._test_users, generator))
                else:
                    wanted = rows if split == streams.TRAIN else rows // 4
                    parts.append(_drawn(kind[split], min(wanted, len(kind[split])), generator))
            found[split] = _joined(parts)
        return found | {CHOICE: _joined([kind[streams.VALIDATION] for kind, _ in kinds])}

    def _of_kind(self, laboratory: Laboratory, world_seed: int, split: str) -> Batch:
        """A split's rows of half of the users, with the home world's ids and the kind's two segments."""
        encoded, home = laboratory.encoded(world_seed), self.encoded
        days = streams.divided_days(encoded, laboratory.size.tower_share)[1] if split == streams.TRAIN else ()
        rows = whole_split(encoded, split, days, extras=("user_key",))
        schema, sparse = home.contract.schema, rows.sparse
        parts = []
        for feature, ids in zip(sparse.keys(), sparse.values().split(sparse.length_per_key()), strict=True):
            table = schema.feature(feature).table
            own = np.append(0, home.vocabulary(table).rows_of(encoded.vocabulary(table).ids))
            parts.append(torch.from_numpy(own)[ids])
        is_wrong = world_seed == ELSEWHERE
        # A user of both worlds would be two people with one id.
        user = parts[sparse.keys().index(schema.user)]
        mine = (user % 2 == int(is_wrong)) & ((rows.segment >= _RIGHT_SEGMENTS) == is_wrong)
        return rows.with_ids(torch.cat(parts)).take(mine.nonzero().squeeze(1))


_RIGHT_SEGMENTS = 2
SPLITS = (streams.TRAIN, streams.VALIDATION, streams.TEST)


def _drawn(pool: Batch, rows: int, generator: np.random.Generator) -> Batch:
    return pool.take(torch.from_numpy(generator.choice(len(pool), size=rows, replace=False)))


def _of_some_users(pool: Batch, number: int, generator: np.random.Generator) -> Batch:
    user = pool.extra["user_key"].numpy()
    chosen = generator.choice(np.unique(user), size=min(number, len(np.unique(user))), replace=False)
    return pool.take(torch.from_numpy(np.flatnonzero(np.isin(user, chosen))))


def _joined(parts: list[Batch]) -> Batch:
    """All rows of some batches, one batch's after the other's."""
    if len(parts) == 1:
        return parts[0]
    keys = parts[0].sparse.keys()
    of_keys = [each.sparse[key] for key in keys for each in parts]

    def together(name: str) -> torch.Tensor:
        return torch.cat([getattr(each, name) for each in parts])

    return Batch(
        dense=together("dense"),
        sparse=KeyedJaggedTensor(
            keys=keys,
            values=torch.cat([each.values() for each in of_keys]),
            lengths=torch.cat([each.lengths() for each in of_keys]),
        ),
        segment=together("segment"),
        label=together("label"),
        weight=together("weight"),
        extra={name: torch.cat([each.extra[name] for each in parts]) for name in parts[0].extra},
    )
