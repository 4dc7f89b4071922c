"""Compositions that stand on another one: layers on the vector that it joined, of which every segment has its own."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from recsys.composition.branches import BRANCHES, Composition, Network, TowerBranch
from recsys.composition.routing import RowsBySegment
from recsys.features.batch import Batch

_TOWER = BRANCHES[0]
_OWN, _INNER = "composition.", "composition.inner."


class NestedComposition(Composition):
    """Base of the compositions that refine what an inner one joined, in part by modules of the row's segment.

    What a segment has for itself lies in `segments`, one module for each: a batch without a row of it calls the
    module not at all, so that nothing of it gets a gradient, and no optimizer moves it.

    Args:
        inner: joins the branches; any composition, nested ones as well.
        segments: one module per segment, in order.

    Attributes:
        reads_tower: belongs to the class: whether the tower's vector is an input besides. It is computed once then,
            for every row, whichever rows the inner composition takes of it.
    """

    reads_tower: ClassVar[bool] = False

    def __init__(self, inner: Composition, output_width: int, segments: nn.ModuleList) -> None:
        super().__init__(output_width)
        self.inner = inner
        self.segments = segments

    @property
    def only_through(self) -> Mapping[str, str]:
        """What holds for the inner composition, but for a tower whose vector is read here too."""
        return {part: way for part, way in self.inner.only_through.items() if part != _TOWER or not self.reads_tower}

    @property
    def without_gradient(self) -> frozenset[str]:
        """The inner composition's, by their names here; a gate adds its own."""
        return frozenset(_inside(name) for name in self.inner.without_gradient)

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return what the inner composition reaches, what all segments share here, and the segment's own."""
        inner = frozenset(_inside(name) for name in self.inner.reached_by(segment))
        shared = super().reached_by(segment) - {*BRANCHES, "composition.inner", "composition.segments"}
        reached = inner | shared | {f"composition.segments.{segment}"} | ({_TOWER} if self.reads_tower else set())
        return reached if _TOWER in reached else reached - {"composition.tower_adapter"}

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return (B, output_width)."""
        by_segment = RowsBySegment(batch.segment, batch.counts_by_segment(len(self.segments)))
        if not self.reads_tower:
            return self.refine(self.inner(batch, embedding_tower, interaction_network), None, by_segment)
        tower = embedding_tower(batch)  # (B, tower_width)
        joined = self.inner(batch, partial(_rows_of, tower), interaction_network)
        return self.refine(joined, tower, by_segment)

    def refine(self, joined: Tensor, tower: Tensor | None, by_segment: RowsBySegment) -> Tensor:
        """Return what becomes of the inner composition's vectors.

        Args:
            joined: (B, the inner output_width).
            tower: (B, tower_width) where the class reads it, else None.

        Returns:
            (B, output_width).
        """
        raise NotImplementedError


def _rows_of(tower: Tensor, batch: Batch, rows: Tensor | None = None) -> Tensor:
    """The tower's vectors of some rows, as the tower itself would return them."""
    return tower if rows is None else tower.index_select(0, rows)


def _inside(name: str) -> str:
    """An inner composition's name of a module, as the ranker has it."""
    return _INNER + name.removeprefix(_OWN) if name.startswith(_OWN) else name
