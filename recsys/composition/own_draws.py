"""Random numbers of a tower's own, so that what is drawn after it does not depend on whether the tower draws.

Two arms of a study share their seed, and so the weights that they begin with, the order of the rows, and what dropout
leaves out: common random numbers, whose effect cancels in their difference (Law, "Simulation Modeling and Analysis",
section 11.2). A frozen tower drops nothing, one that learns does. Drawn from one stream, the network's dropout would
from then on be another in each of the two.
"""

import torch
from torch import Tensor, nn

from recsys.composition.branches import TowerBranch
from recsys.features.batch import Batch


def drops(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training mode, for a dropout somewhere in it."""
    return any(isinstance(each, nn.modules.dropout._DropoutNd) and each.p > 0 for each in module.modules())


def with_own_draws(tower: TowerBranch) -> TowerBranch:
    """Return the tower with numbers of its own: a call takes one from the common stream, whatever the tower draws."""

    def drawing(batch: Batch, rows: Tensor | None = None) -> Tensor:
        seed = int(torch.randint(2**62, ()))
        device = batch.label.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            torch.manual_seed(seed)
            return tower(batch, rows)

    return drawing
