"""An exponential moving average of the weights that learn: what is validated, kept and served in their place.

The last weights of a run have the noise of its last batches. Their average over many steps has less of it (Polyak and
Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Izmailov et al., "Averaging Weights Leads to
Wider Optima and Better Generalization", UAI 2018), and an exponential one forgets the start (Karras et al., "Analyzing
and Improving the Training Dynamics of Diffusion Models", CVPR 2024, section 3).

After the t-th step since a weight w began to learn, its average is

    a_t = a_{t-1} + r_t (w_t - a_{t-1}),    r_t = (1 - d) / (1 - d^t),

which is the sum of (1 - d) d^(t-i) w_i over the steps i = 1..t, divided by 1 - d^t: the weights before the first step
have no share in it (the bias correction of Kingma and Ba, "Adam", ICLR 2015, section 3). Of the first 1 / (1 - d) steps
it is nearly the plain mean. Every row of a table is averaged in every step, also where no batch looked it up; one that
never was is its own average to the bit. With d = 0.99, in a run of hundreds of steps, the last hundred count.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.sharding.divided_state import DividedTensor, divided_tables, undivided
from recsys.sharding.inventory import TableShard, inventory_of
from recsys.training.optimizer import RankerOptimizers


@dataclass(frozen=True)
class _Followed:
    """Weights that began to learn at the same step, and their averages in the same order, (rows, columns) or as dense.

    The weights are views: they change with every step.
    """

    weights: list[Tensor] = field(default_factory=list)
    averages: list[Tensor] = field(default_factory=list)


class WeightAverage:
    """The average of every dense parameter and table that learns, in float32, where the weight itself lies.

    Each process averages the shards that it holds, and nothing waits for the device. What is frozen has no average and
    stays as it is. A part that thaws starts its average at its weights.

    Args:
        ranker: as `wrap_ranker` returned it; its tables in one memory, without a cache before them.
        optimizers: say what learns, and since when.
        decay: d, between 0 and 1.
    """

    def __init__(self, ranker: nn.Module, optimizers: RankerOptimizers, decay: float) -> None:
        self._inventory, self._optimizers, self._decay = inventory_of(ranker), optimizers, decay
        self._since: dict[str, int] = {}
        self._averages: dict[str, Tensor] = {}  # by a dense parameter's name or a shard's
        self._followed: dict[int, _Followed] = {}  # by the step at which the weights began to learn

    def parts(self) -> dict[str, DividedTensor]:
        """Return the averages that this process holds, shaped as in the plain model; {} before the first step.

        The next step changes them.
        """
        dense = self._inventory.dense_parameters().keys() & self._since.keys()
        tables = {name: entry for name, entry in self._inventory.tables.items() if name in self._since}
        shards = [replace(shard, weight=self._averages[shard.name]) for shard in self._shards()]
        return undivided({name: self._averages[name] for name in sorted(dense)}) | divided_tables(
            replace(self._inventory, tables=tables), shards, torch.float32
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights that a step, counted from 0, has left. One that was skipped left those before it."""
        if self._since != self._optimizers.learning_since:
            self._since = dict(self._optimizers.learning_since)
            self._pair()
        for since, each in self._followed.items():
            rate = (1 - self._decay) / (1 - self._decay ** (step + 1 - since))
            single = [weight.float() for weight in each.weights]  # the same tensor, but of a table in half precision
            torch._foreach_lerp_(each.averages, single, rate)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the ranker has the averages for its weights; afterwards its own again, to the bit."""
        weights = [weight for each in self._followed.values() for weight in each.weights]
        averages = [average for each in self._followed.values() for average in each.averages]
        own = [weight.clone() for weight in weights]
        try:
            _copy(averages, weights)
            yield
        finally:
            _copy(own, weights)

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, DividedTensor]:
        """Return `parts` of an average that the caller fills with a saved one, to go on from it.

        The optimizers must be in the stage that it is of already.

        Args:
            shapes: of the saved average's whole tensors, by name.

        Raises:
            DataError: it belongs to other parameters.
        """
        learning, dense = self._optimizers.learning_since, self._inventory.dense_parameters()
        own = {name: tuple(parameter.shape) for name, parameter in dense.items()}
        own |= {name: entry.shape for name, entry in self._inventory.tables.items()}
        for name, shape in shapes.items():
            if name not in learning or own[name] != shape:
                raise DataError(
                    f"The saved average has `{name}` of shape {shape}, which does not learn here, or in another shape. "
                    "Resume with the configuration of the saved run."
                )
        self._since = {name: learning[name] for name in shapes}
        self._averages = {}
        self._pair()
        return self.parts()

    def _pair(self) -> None:
        """Pair all that is averaged with its average, which begins with the weight where it is new."""
        dense = self._inventory.dense_parameters()
        learning = [(name, name, dense[name].detach()) for name in dense if name in self._since]
        learning += [(shard.table, shard.name, shard.weight.detach()) for shard in self._shards()]
        self._followed = {}
        for name, key, weight in learning:
            if key not in self._averages:
                self._averages[key] = _single(weight, weight.device)
            each = self._followed.setdefault(self._since[name], _Followed())
            each.weights.append(weight)
            each.averages.append(self._averages[key])

    def _shards(self) -> list[TableShard]:
        return [shard for shard in self._inventory.shards() if shard.table in self._since]


def _single(weight: Tensor, device: torch.device) -> Tensor:
    """A float32 copy of its own, of the same shape."""
    return torch.empty(weight.shape, dtype=torch.float32, device=device).copy_(weight.detach())


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
