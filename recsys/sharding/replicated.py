"""Tables of which every process holds the whole: TorchRec's `data_parallel`, without its wrapper.

For TorchRec a data-parallel table is one more dense parameter inside DDP with a static graph, which stops where a part
is frozen or thawed and where a batch does not reach it. Here it is a plain collection whose dense gradient is averaged
with all the others by `average_dense_gradients`; the gate steps it by the rule that the fused kernels have. Worth it
for small tables only: the gradient that the processes exchange has a number for every element.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection


class ReplicatedTables(EmbeddingBagCollection):
    """A plain collection with an optimizer of its own; it has the parameters of the collection that it is made from.

    Args:
        optimizer: over the collection's parameters, one group; it must leave rows without a gradient unchanged.
        rule: fbgemm's word for what it does, such as "exact_row_wise_adagrad".
    """

    def __init__(self, plain: EmbeddingBagCollection, optimizer: torch.optim.Optimizer, rule: str) -> None:
        # On the meta device nothing is allocated or drawn; the parameters are then the plain collection's.
        super().__init__(plain.embedding_bag_configs(), plain.is_weighted(), torch.device("meta"))
        self._device = plain.device
        self.embedding_bags = plain.embedding_bags
        self.optimizer = optimizer
        self.rule = rule

    def weight(self, table: str) -> nn.Parameter:
        """Return one table, (rows, width)."""
        weight = self.embedding_bags[table].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def state(self, table: str) -> Tensor | None:
        """Return a table's accumulator as the fused kernels shape it: (rows,) row-wise, else (rows, width)."""
        accumulator: Tensor | None = self.optimizer.state[self.weight(table)].get("sum")
        return accumulator.squeeze(1) if accumulator is not None and "row_wise" in self.rule else accumulator


@dataclass(frozen=True)
class ReplicatedKernel:
    """Stands for a fused kernel where who steps which table is asked."""

    collection: ReplicatedTables
    tables: tuple[str, ...]

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the updates that the gate from now on releases."""
        for group in self.collection.optimizer.param_groups:
            group["lr"] = rate

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return float(self.collection.optimizer.param_groups[0]["lr"])

    @property
    def optimizer(self) -> str:
        """The update rule by fbgemm's own word."""
        return self.collection.rule
