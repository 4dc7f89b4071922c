"""A split of rows small enough to be worked out by hand, and rankers whose logits are known."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch


def rows(logit: list[float], label: list[float], segment: list[int] | None = None, **extra: list) -> Batch:
    """A batch whose only dense feature is the logit that `FirstColumnRanker` will give."""
    count = len(label)
    return Batch(
        dense=torch.tensor(logit, dtype=torch.float32).unsqueeze(1),
        sparse=KeyedJaggedTensor(
            keys=["item"], values=torch.zeros(count, dtype=torch.int64), lengths=torch.ones(count, dtype=torch.int64)
        ),
        segment=torch.tensor(segment or [0] * count),
        label=torch.tensor(label, dtype=torch.float32),
        weight=torch.ones(count),
        extra={name: torch.tensor(column) for name, column in extra.items()},
    )


@dataclass
class Stream:
    """Cuts one big batch into batches of `batch_size` rows."""

    whole: Batch
    batch_size: int

    @property
    def num_batches(self) -> int:
        return -(-len(self.whole) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.whole), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield replace(
                self.whole,
                dense=self.whole.dense[part],
                segment=self.whole.segment[part],
                label=self.whole.label[part],
                weight=self.whole.weight[part],
                extra={name: column[part] for name, column in self.whole.extra.items()},
            )


class FirstColumnRanker(nn.Module):
    """Its logit is the first dense feature; its tower drops everything out unless it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_tower = nn.Sequential(nn.Dropout(p=1.0))
        self.head = nn.Linear(1, 1)

    def forward(self, batch: Batch) -> Tensor:
        logit: Tensor = self.embedding_tower(batch.dense[:, 0])
        return logit
