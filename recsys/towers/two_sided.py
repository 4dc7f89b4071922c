"""TwoSidedTower: what all towers have in common that give a row's user a vector and its item another.

Their inner product says how well the two fit, so that such a tower retrieves; and since a side's vector follows from
that side's features alone, it can be kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.towers.row_digests import row_digests
from recsys.towers.tower_spec import TowerSpec


class TwoSidedTower(nn.Module, ABC):
    """Turn a row into the user's vector u, the item's vector v, and their product u * v, whose sum is the dot product.

    Attributes:
        is_frozen: the whole forward, tables included, runs without a graph and in evaluation mode. Fused tables learn
            inside backward whatever `requires_grad` says, so there is no other way to freeze them. A child that
            has it set is frozen by itself: the tables are then looked up without a graph.
        cache: returns the vectors of each side of a frozen tower, (B, D) each, in place of computing them; dropped when
            the tower learns again.
        output_width: of what the ranker gets: 3 D, or D where there is no user side.
    """

    cache: Callable[[Batch], list[Tensor]] | None

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.is_frozen = False
        self.cache = None
        self.output_width = spec.width * (3 if spec.user_features else 1)

    @abstractmethod
    def side_vectors(self, batch: Batch, rows: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return each side's vectors from the live tower, without a graph.

        Args:
            rows: per side, (n,) int64 positions in the batch, which alone are looked up; None is all rows.

        Returns:
            Per side, (n, D).
        """

    @abstractmethod
    def _looked_up(self, batch: Batch) -> Any:
        """All that the batch's ids have in the tables."""

    @abstractmethod
    def _live(self, batch: Batch, rows: Tensor | None, looked_up: Any) -> list[Tensor]:
        """Compute, per side, the vectors (n, D) of some rows, or of all, from what was looked up for the batch."""

    @abstractmethod
    def _read_features(self) -> tuple[list[list[str]], list[Tensor]]:
        """Per side, the names of the sparse features that it reads, and its columns of the dense ones, (n,) int64."""

    @property
    def _scale(self) -> float:
        """What the sides' vectors are multiplied by so that their numbers are of order 1 for the ranker."""
        return 1.0

    def train(self, mode: bool = True) -> "TwoSidedTower":
        """Set training mode; a frozen tower, and a frozen module of one that learns, stays in evaluation mode."""
        super().train(mode and not self.is_frozen)
        for module in self.modules():
            if module is not self and is_frozen(module):
                module.eval()
        return self

    def look_up(self, batch: Batch) -> Any:
        """Return what the tables have for the batch's ids, for `forward`; None where a cache answers for the tower.

        Every row is looked up, since a rank may not skip a sharded table.
        """
        return None if self.cache is not None and self.is_frozen else self._looked_up(batch)

    def look_up_live(self, batch: Batch) -> Any:
        """Return what `look_up` does, a cache or none."""
        return self._looked_up(batch)

    def is_exercised_by(self, batch: Batch) -> bool:
        """Whether a pass over the batch reaches all of the tower: always, as every row has a user and an item."""
        return True

    def sides(self, batch: Batch, rows: Tensor | None = None, looked_up: Any = None) -> tuple[Tensor, Tensor]:
        """Return the user vectors and the item vectors, each (B, D), or (n, D) for the n `rows`.

        With no rows at all the layers above the tables are not called: they get no gradient rather than a zero one.

        Args:
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Raises:
            UsageError: the tower has no user side.
        """
        if not self.spec.user_features:
            raise UsageError(
                "This tower has no user side: no list feature of the user tower shares the item's table. Give the "
                "schema one, or use the tower for its item vectors only."
            )
        user, item = self._vectors(batch, rows, looked_up)
        return user, item

    def forward(self, batch: Batch, rows: Tensor | None = None, looked_up: Any = None) -> Tensor:
        """Return what the ranker joins: u, v and u * v side by side, or v alone where there is no user side.

        Args:
            rows: (n,) int64 positions in the batch; None is all of them.
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Returns:
            (B, output_width), or (n, output_width).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            if not self.spec.user_features:
                return self._vectors(batch, rows, looked_up)[0]
            user, item = self.sides(batch, rows, looked_up)
            if self._scale != 1.0:
                user, item = user * self._scale, item * self._scale
            return torch.cat([user, item, user * item], dim=1)

    def side_digests(self, batch: Batch) -> list[Tensor]:
        """Return, for each side that the tower has, (2, B) int64: equal where a row gives it the same input."""
        return row_digests(batch, *self._read_features())

    def _vectors(self, batch: Batch, rows: Tensor | None, looked_up: Any) -> list[Tensor]:
        if self.cache is not None and not self.is_frozen:
            self.cache = None  # the vectors in it are those of the frozen weights
        if self.cache is not None:
            return picked(self.cache(batch), rows)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self._live(batch, rows, self._looked_up(batch) if looked_up is None else looked_up)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module is frozen by itself."""
    return bool(getattr(module, "is_frozen", False))


def picked(tensors: Sequence[Tensor], rows: Tensor | None) -> list[Tensor]:
    """Return the rows (n, ...) of each tensor (B, ...), or all of them."""
    return list(tensors) if rows is None else [tensor.index_select(0, rows) for tensor in tensors]


def no_rows(empty: Tensor, width: int) -> Tensor:
    """Return a (0, width) tensor whose graph still reaches the tables of `empty`, (0, W)."""
    return empty.sum(dim=1, keepdim=True).expand(0, width)
