"""What each user segment may change of the pre-trained tower: a rung of a ladder, from nothing to all of it.

The tower itself stays frozen, and every segment's rows start from its vector. What a rung learns lies beside it: a
low-rank adapter of the segment's own, or a copy of the tower that the segments of one rung share. The rows of a frozen
segment get the tower's vector to the bit, and no gradient of theirs reaches what the others learn.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recsys.composition.adapter import LowRankAdapter
from recsys.composition.branches import TowerBranch
from recsys.composition.routing import RowsBySegment
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.towers.any_tower import Tower
from recsys.towers.tower_copy import DENSE, TABLES, TowerCopy
from recsys.towers.tower_spec import TowerSpec

FROZEN, ADAPTER, ALL = "frozen", "adapter", "all"
RUNGS = (FROZEN, ADAPTER, TABLES, DENSE, ALL)
"""From the least change to the greatest; a copy's tables, its dense layers, or both."""
COPIED: Mapping[str, tuple[str, ...]] = {TABLES: (TABLES,), DENSE: (DENSE,), ALL: (TABLES, DENSE)}
"""The rungs that copy the tower, and which halves of the copy learn."""

ADAPTERS_PART, COPIES_PART = "tower_adapters", "tower_copies"
"""The parts of a ranker that hold what segments learn, by name."""


@dataclass(frozen=True)
class SegmentRungs:
    """Who may change what.

    Attributes:
        of_segments: the rung of every segment, in the schema's order.
        adapter_rank: of each adapter; None where no segment has one.
        copy_rows: by rung that copies tables, by table: how many rows the copy has, that of unseen ids included.
    """

    of_segments: tuple[str, ...]
    adapter_rank: int | None
    copy_rows: Mapping[str, Mapping[str, int]]

    def segments_on(self, rung: str) -> tuple[int, ...]:
        """Return the segments of a rung, by number."""
        return tuple(number for number, each in enumerate(self.of_segments) if each == rung)

    @property
    def copies(self) -> tuple[str, ...]:
        """The rungs that some segment has and that copy the tower."""
        return tuple(rung for rung in COPIED if rung in self.of_segments)

    def to_document(self) -> dict[str, Any]:
        """Return JSON values that `from_document` reads back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SegmentRungs":
        """Read what `to_document` wrote."""
        return cls(tuple(document["of_segments"]), document["adapter_rank"], document["copy_rows"])


class _Deltas(nn.ModuleDict):
    """What segments learn of the tower, frozen as a whole or not at all.

    Attributes:
        is_frozen: nothing of it is called, so that every row has the frozen tower's vector.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(modules)
        self.is_frozen = False

    def train(self, mode: bool = True) -> "_Deltas":
        """Set training mode; while frozen it stays in evaluation mode, as does what is frozen in it."""
        super().train(mode and not self.is_frozen)
        for module in self.modules():
            if module is not self and getattr(module, "is_frozen", False):
                module.eval()
        return self


class TowerAdapters(_Deltas):
    """An adapter on the tower's output for each segment of the rung `adapter`, by the segment's number."""

    def __init__(self, rungs: SegmentRungs, tower_width: int) -> None:
        rank = rungs.adapter_rank
        assert rank is not None
        super().__init__({str(each): LowRankAdapter(tower_width, rank) for each in rungs.segments_on(ADAPTER)})


class TowerCopies(_Deltas):
    """A copy of the tower for each rung that some segment has and that copies it, by the rung."""

    def __init__(self, rungs: SegmentRungs, spec: TowerSpec, contract: FeatureContract) -> None:
        super().__init__(
            {rung: TowerCopy(spec, contract, rungs.copy_rows.get(rung, {}), COPIED[rung]) for rung in rungs.copies}
        )
        for rung in rungs.copies:
            is_on = torch.tensor([each == rung for each in rungs.of_segments])  # (S,)
            self.register_buffer(f"is_on_{rung}", is_on, persistent=False)

    def look_up(self, base: Tower, batch: Batch, known: Any = None) -> dict[str, tuple[Batch, Any]]:
        """Return, by rung, the batch with its segments' ids alone, and what the copy's tables have for them.

        Every copy is looked up, whichever segments the batch has, since no rank may skip a sharded table; none while
        frozen.

        Args:
            known: as of `TowerCopy.look_up`.
        """
        if self.is_frozen:
            return {}
        found = {}
        for rung, copy in self.items():
            assert isinstance(copy, TowerCopy)
            if known is not None and TABLES not in copy.learns:
                found[rung] = batch, known  # what the layers are given is at hand
                continue
            is_on = self.get_buffer(f"is_on_{rung}").index_select(0, batch.segment)
            own = batch.with_ids_of(is_on, copy.features)
            found[rung] = own, copy.look_up(base, own, known)
        return found


class TowerBySegment:
    """The tower as a composition calls it, each row's vector by the rung of its segment.

    Args:
        tower: the frozen tower.
        looked_up: what `TowerCopies.look_up` returned; {} where there are none.
    """

    def __init__(
        self,
        tower: TowerBranch,
        rungs: SegmentRungs,
        adapters: TowerAdapters | None,
        copies: TowerCopies | None,
        looked_up: Mapping[str, tuple[Batch, Any]],
    ) -> None:
        self._tower, self._rungs, self._looked_up = tower, rungs, looked_up
        self._adapters = None if adapters is None or adapters.is_frozen else adapters
        self._copies = copies

    def __call__(self, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """Return (B, output_width), or (n, output_width) for n `rows`.

        Adapters and the layers of copies see their segments' rows alone, and are not called where there is none: they
        then get no gradient rather than a zero one.
        """
        base = self._tower(batch)
        by_segment = RowsBySegment(batch.segment, batch.counts_by_segment(len(self._rungs.of_segments)))
        places: list[Tensor] = []
        vectors: list[Tensor] = []
        for segment, adapter in (self._adapters or {}).items():
            own = by_segment.of([int(segment)])
            places.append(own)
            vectors.append(adapter(base.index_select(0, own)))
        for rung, (own_batch, looked_up) in self._looked_up.items():
            assert self._copies is not None
            own = by_segment.of(self._rungs.segments_on(rung))
            places.append(own)
            vectors.append(self._copies[rung](own_batch, own, looked_up))
        mixed = base
        if places:
            # Under autocast an adapter's output may be narrower than what it stands beside.
            mixed = base.index_copy(0, torch.cat(places), torch.cat([each.to(base.dtype) for each in vectors]))
        return mixed if rows is None else mixed.index_select(0, rows)
