"""TowerArtifact: a pre-trained tower outside of any module, and how it enters one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recsys.errors import DataError
from recsys.towers.any_tower import Tower
from recsys.towers.tower_spec import TowerSpec


@dataclass(frozen=True)
class TowerArtifact:
    """Everything that a pre-trained tower is, but for the contract that it was made under.

    Attributes:
        weights: tables and dense parameters, under the names of the plain tower's `state_dict()`. The weights of a
            sharded tower come and go by the same names, through `sharding/whole_state.py`.
        provenance: plain JSON values: where the tower came from, and how good it was found to be.
    """

    spec: TowerSpec
    weights: Mapping[str, Tensor]
    provenance: Mapping[str, Any]


def apply_tower(tower: Tower, artifact: TowerArtifact) -> None:
    """Copy the artifact's weights into a tower that is not sharded.

    Raises:
        DataError: the tower was built to another description, or a tensor is missing, unknown or of another shape.
    """
    if tower.spec != artifact.spec:
        raise DataError(
            f"The pre-trained tower is {artifact.spec}, but the ranker's is {tower.spec}. Build the ranker's tower "
            "from the artifact's own description."
        )
    expected = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in artifact.weights.items()}
    if found != expected:
        differs = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise DataError(
            f"The pre-trained tower's tensor `{differs}` has shape {found.get(differs, '(absent)')}; the ranker's "
            f"tower expects {expected.get(differs, '(none of that name)')}. Pre-train or import the tower again."
        )
    tower.load_state_dict(dict(artifact.weights))
