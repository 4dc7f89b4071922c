"""A user's module, as text: an interaction network and a composition of a few lines each."""

SOURCE = '''
from typing import Literal

import torch
from torch import Tensor

from recsys.build import register_composition, register_network
from recsys.composition.branches import BranchProjection, BranchShape, Composition
from recsys.config import CompositionConfig, NetworkConfig, checked_dataclass
from recsys.interactions.crossing import Crossing


@checked_dataclass
class PowersConfig(NetworkConfig):
    name: Literal["powers"]
    degree: int = 2


class Powers(Crossing):
    """The fields beside their powers."""

    def __init__(self, num_fields: int, dimension: int, degree: int) -> None:
        super().__init__(num_fields * dimension * degree)
        self.degree = degree

    def forward(self, fields: Tensor) -> Tensor:
        return torch.cat([fields.flatten(1) ** power for power in range(1, self.degree + 1)], dim=1)


@checked_dataclass
class LargestConfig(CompositionConfig):
    name: Literal["largest"]
    width: int


class Largest(Composition):
    """Of both branches, number by number, the larger one."""

    def __init__(self, projection: BranchProjection) -> None:
        super().__init__(projection.width)
        self.projection = projection

    def forward(self, batch, embedding_tower, interaction_network) -> Tensor:
        return self.projection(embedding_tower(batch), interaction_network(batch)).amax(dim=1)


register_network(PowersConfig, lambda knobs, num_fields: Powers(num_fields, knobs.field_width, knobs.degree))
register_composition(LargestConfig, lambda knobs, shape: Largest(shape.projection(knobs.width)))
'''
