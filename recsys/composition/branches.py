"""The two branches of a ranker, what every composition of them promises, and how they are brought to one width."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from recsys.composition.adapter import LowRankAdapter
from recsys.features.batch import Batch

BRANCHES = ("embedding_tower", "interaction_network")
"""The two parts of a ranker that a composition joins, by name."""


class TowerBranch(Protocol):
    """An embedding tower as a composition calls it; see `EmbeddingTower.forward`."""

    def __call__(self, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """Return (B, output_width), or (n, output_width) for n `rows`."""


class Network(Protocol):
    """An interaction network as a composition calls it; see `InteractionNetwork.forward`."""

    def __call__(self, batch: Batch, rows: Tensor | None = None, tower_field: Tensor | None = None) -> Tensor:
        """Return (B, output_width), or (n, output_width) for n `rows`."""


class Composition(nn.Module):
    """Base of the compositions: calls both branches, for the rows and in the order that it stands for.

    A composition calls each branch exactly once per batch, with no rows if need be: behind it lie sharded tables, which
    no rank may skip in the backward pass.

    Attributes:
        output_width: of the joined vector.
        tower_adapter: through which the tower's vector comes, or None.
        noted_gates: where it is a dictionary, a forward pass leaves its gates in it, by what they let through, (B,)
            each: a branch, or what the composition calls it. None where nobody reads them (`gate_reading.py`).
    """

    def __init__(self, output_width: int) -> None:
        super().__init__()
        self.output_width = output_width
        self.tower_adapter: LowRankAdapter | None = None
        self.noted_gates: dict[str, Tensor] | None = None

    @property
    def columns(self) -> Mapping[str, slice]:
        """Branch -> its columns of the joined vector, where they lie side by side in it."""
        return {}

    @property
    def only_through(self) -> Mapping[str, str]:
        """Part -> the module through which alone its gradient comes, where there is such a one."""
        return {}

    @property
    def without_gradient(self) -> frozenset[str]:
        """The modules that use something they are given without its gradient, on purpose, as the audit is told."""
        return frozenset()

    def with_adapter(self, embedding_tower: TowerBranch) -> TowerBranch:
        """Return the tower with the adapter on its output, or the tower itself where there is none."""
        adapter = self.tower_adapter
        if adapter is None:
            return embedding_tower
        return lambda batch, rows=None: adapter(embedding_tower(batch, rows))

    def reached_by(self, segment: int) -> frozenset[str]:
        """Return what the loss of a segment's rows must reach, and nothing beside it; a frozen part not counted.

        Names of the ranker's modules: the branches, and the composition's own behind "composition.". As declared
        here, all of them.
        """
        return frozenset((*BRANCHES, *(f"composition.{name}" for name, _ in self.named_children())))

    def forward(self, batch: Batch, embedding_tower: TowerBranch, interaction_network: Network) -> Tensor:
        """Return the joined vector of every row, (B, output_width)."""
        raise NotImplementedError


class BranchProjection(nn.Module):
    """Bring the tower's vector and the network's to one width, so that they can be added, multiplied or gated."""

    def __init__(self, tower_width: int, network_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.tower = nn.Linear(tower_width, width)
        self.network = nn.Linear(network_width, width)

    def forward(self, tower: Tensor, network: Tensor) -> Tensor:
        """Map (B, tower_width) and (B, network_width) to the branches (B, 2, D), the tower first."""
        return torch.stack([self.tower(tower), self.network(network)], dim=1)


@dataclass(frozen=True)
class BranchShape:
    """What a composition is built for.

    Attributes:
        segments: of the schema, in order; S is their number.
        tower_width: of the tower's vector.
        field_width: D of the interaction network's fields.
        network_width: of the interaction network's output.
    """

    segments: tuple[str, ...]
    tower_width: int
    field_width: int
    network_width: int

    def projection(self, width: int) -> BranchProjection:
        """A new projection of both branches to `width`."""
        return BranchProjection(self.tower_width, self.network_width, width)
