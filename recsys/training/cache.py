"""TowerCache: a frozen tower's vectors, each computed once and then remembered by what the tower was given.

A side's vector depends on the tower and on the side's own inputs and on nothing else, so it is kept under the digest of
all those inputs: two rows with one user in one state share a user vector, two rows with one item in one state an item
vector. What is missing is computed for those rows alone. The tower's own digest guards the whole: when its tensors were
written to and their bits differ, everything is forgotten.

The numbers are those of the live tower to 1e-6, and on a CPU the very same bits where every layer is wider than eight:
a matrix product then gives a row the same numbers whatever is beside it (measured over 47 input widths; a few rows
alone are the exception, and are padded). On a CPU the cache is exact or not at all: where the first batch shows a bit
of difference it closes itself, so that a resumed run still equals an unbroken one bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from recsys.errors import TrainingError, UsageError
from recsys.features.batch import Batch
from recsys.files import fingerprint_of
from recsys.monitoring.frozen_proof import part_digests
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext, any_process
from recsys.training.precision import uses_tf32
from recsys.training.vector_store import VectorStore, capacity_of

_TOWER = "embedding_tower"
# Batches, and rows of such a batch: well under a per cent of the live tower's work.
_CHECK_EVERY, _CHECKED_ROWS = 100, 64
# Kernels for a GPU or for another batch size may add in another order, and under TF32 round a factor to 11 bits
# where the other did not; a vector of another tower is further away.
_TOLERANCE, _TF32_TOLERANCE = 1e-5, 4e-3
# A lone row is multiplied by a matrix-vector kernel, whose last bits differ from those of every larger batch.
_LEAST_ROWS = 64


@runtime_checkable
class CacheableTower(Protocol):
    """What the cache asks of a tower; see `EmbeddingTower`."""

    is_frozen: bool
    cache: Callable[[Batch], list[Tensor]] | None

    def side_digests(self, batch: Batch) -> list[Tensor]:
        """Return, per side, (2, B) int64, equal where the side's inputs are."""

    def side_vectors(self, batch: Batch, rows: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return, per side, the live tower's vectors (n, D) of n rows, or of all."""


class TowerCache:
    """Stands in for a frozen tower's sides from its making until `close`, or until the tower is thawed.

    Every process makes one and calls it on each batch, since none may skip a sharded table: a batch is looked up in all
    of them as soon as one misses a vector.

    Args:
        ranker: as `wrap_ranker` returned it, its tower frozen.
        megabytes: the most memory that vectors and their digests take; what comes after is computed every time.
        most_rows: how many different rows can come, where that is known: no more places are made than they need.

    Raises:
        UsageError: the tower learns.
    """

    def __init__(
        self, ranker: nn.Module, megabytes: int, context: ProcessContext, most_rows: int | None = None
    ) -> None:
        self._inventory, self._megabytes, self._context = inventory_of(ranker), megabytes, context
        self._most_rows = most_rows
        self._tower = cast(CacheableTower, self._inventory.module.get_submodule(_TOWER))
        if not self._tower.is_frozen:
            raise UsageError("Only a frozen tower can be cached: one that learns gives other vectors after every step.")
        tower = self._inventory.under(_TOWER)
        self._tensors = [*tower.dense_parameters().values(), *tower.dense_buffers().values()]
        self._tensors += [shard.weight for shard in tower.shards()]
        self._versions, self._digest = self._read_versions(), self._tower_digest()
        self._stores: list[VectorStore] = []
        self._random = torch.Generator().manual_seed(0)  # its own, so that no other draw depends on the cache
        self._calls = self._checks = self._asked = self._missed = 0
        self._largest_gap = 0.0
        self._tower.cache = self

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Return, per side, the vectors of all rows, (B, D).

        Raises:
            TrainingError: a vector differs from the live tower's; the whole first batch is compared, then some rows
                now and then.
        """
        self._forget_another_tower()
        digests = self._tower.side_digests(batch)
        is_first = not self._stores
        vectors = self._answer(batch, digests)
        if is_first:
            self._check(batch, self._answer(batch, digests), everything=True)
            if batch.dense.device.type == "cpu" and any_process(self._largest_gap > 0, self._context):
                self.close()
                return self._live(batch)
        elif self._calls % _CHECK_EVERY == 0:
            self._check(batch, vectors, everything=False)
        self._calls += 1
        return vectors

    def close(self) -> None:
        """Leave the tower to answer for itself, and free the memory."""
        self._tower.cache = None
        self._stores = []

    def record(self) -> dict[str, Any]:
        """Return what can be logged with a run; a `largest_gap` of 0 says that all checked bits were the same."""
        return {
            "is_in_use": self._tower.cache is self,
            "tower_digest": self._digest,
            "vectors_held": [store.held for store in self._stores],
            "answered_share": 1 - self._missed / self._asked if self._asked else 0.0,
            "checks_against_the_live_tower": self._checks,
            "largest_gap": self._largest_gap,
        }

    def _answer(self, batch: Batch, digests: list[Tensor]) -> list[Tensor]:
        if not self._stores:
            self._make_stores(batch, len(digests))
        positions = [store.find(own) for store, own in zip(self._stores, digests, strict=True)]
        vectors = [store.vectors(own) for store, own in zip(self._stores, positions, strict=True)]
        missing = [(own < 0).nonzero().squeeze(1) for own in positions]
        self._asked += sum(map(len, positions))
        self._missed += sum(map(len, missing))
        if not any_process(any(map(len, missing)), self._context):
            return vectors
        firsts, inverses = zip(*map(_distinct, missing, digests), strict=True)
        computed = self._compute(batch, firsts)
        for side, (store, rows, inverse) in enumerate(zip(self._stores, missing, inverses, strict=True)):
            vectors[side].index_copy_(0, rows, computed[side].index_select(0, inverse))
            store.insert(digests[side].index_select(1, firsts[side]), computed[side])
        return vectors

    def _compute(self, batch: Batch, rows: Sequence[Tensor]) -> list[Tensor]:
        padded = [_padded(own) for own in rows]
        if not any(map(len, padded)):  # another process needs vectors; this one must take part
            padded[0] = padded[0].new_zeros(_LEAST_ROWS)
        computed = self._live(batch, padded)
        return [vectors[: len(own)] for vectors, own in zip(computed, rows, strict=True)]

    def _live(self, batch: Batch, rows: Sequence[Tensor] | None = None) -> list[Tensor]:
        # In single precision, whatever the training step computes in: one vector serves training and validation.
        with torch.autocast(batch.dense.device.type, enabled=False):
            return self._tower.side_vectors(batch, rows)

    def _make_stores(self, batch: Batch, sides: int) -> None:
        probe = [torch.zeros(_LEAST_ROWS, dtype=torch.int64, device=batch.dense.device)] * sides
        for vectors in self._live(batch, probe):
            width = vectors.shape[1]
            capacity = capacity_of(self._megabytes, width) // sides
            if self._most_rows is not None:
                capacity = min(capacity, self._most_rows)
            self._stores.append(VectorStore(width, capacity, vectors.device))

    def _check(self, batch: Batch, vectors: list[Tensor], *, everything: bool) -> None:
        if everything:
            rows, live = torch.arange(len(batch)), self._live(batch)
        else:
            rows = torch.randint(len(batch), (_CHECKED_ROWS,), generator=self._random)
            live = self._live(batch, [rows.to(batch.dense.device)] * len(vectors))
        self._checks += 1
        tolerance = _TF32_TOLERANCE if uses_tf32(batch.dense.device) else _TOLERANCE
        faults = []
        for side, (mine, own) in enumerate(zip(vectors, live, strict=True)):
            gap = (mine.index_select(0, rows.to(mine.device)) - own).abs().amax(dim=1)  # (n,)
            self._largest_gap = max(self._largest_gap, float(gap.max()))
            # Written so that a NaN is a fault too.
            differing = (~(gap <= tolerance)).nonzero().flatten().tolist()
            faults += [(side, int(rows[row]), float(gap[row])) for row in differing]
        if any_process(bool(faults), self._context):
            raise TrainingError(self._explain(faults))

    def _explain(self, faults: list[tuple[int, int, float]]) -> str:
        where = "in another process"
        if faults:
            side, row, gap = faults[0]
            name = "item" if side == len(self._stores) - 1 else "user"
            where = f"the {name} vector of row {row} of batch {self._calls} by {gap:.3g}"
        return (
            f"The cached vectors of `{_TOWER}` (digest {self._digest}) differ from the live tower's: {where}. "
            "Something wrote to the frozen tower behind the cache's back, or its vectors depend on more than its own "
            "features. Set `training_mode.cache_megabytes` to null, and find out which."
        )

    def _forget_another_tower(self) -> None:
        """Clear the stores if the tower's bits are others than before."""
        versions = self._read_versions()
        # Asked of every process, as a table that was written to may lie in one of them alone.
        if not any_process(versions != self._versions, self._context):
            return
        # Written to, which need not have changed it: a checkpoint may have given back the same weights.
        before, self._versions, self._digest = self._digest, versions, self._tower_digest()
        if any_process(self._digest != before, self._context):
            self._stores = []

    def _read_versions(self) -> list[int]:
        return [tensor._version for tensor in self._tensors]

    def _tower_digest(self) -> str:
        return fingerprint_of(part_digests(self._inventory, _TOWER))


def _distinct(rows: Tensor, digests: Tensor) -> tuple[Tensor, Tensor]:
    """Return one of the rows for each digest among them, and for every row the number of its own."""
    first, check = digests.index_select(1, rows)
    order = first.argsort()
    begins = torch.ones_like(order, dtype=torch.bool)
    begins[1:] = (first[order].diff() != 0) | (check[order].diff() != 0)
    inverse = torch.empty_like(order).index_copy_(0, order, begins.cumsum(0) - 1)
    return rows[order[begins]], inverse


def _padded(rows: Tensor) -> Tensor:
    """The rows, the first of them repeated up to the least number; no rows stay none."""
    lacking = _LEAST_ROWS - len(rows) if len(rows) else 0
    return torch.cat([rows, rows[:1].expand(lacking)]) if lacking > 0 else rows
