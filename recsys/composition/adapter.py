"""A small trainable layer on a frozen tower's output."""

from torch import Tensor, nn


class LowRankAdapter(nn.Module):
    """x + B A x: a tower's vector, and a correction of low rank to it.

    B starts at zero, so that a ranker with an adapter gives at first the very logits of one without. What it learns
    belongs to the composition: the tower itself stays as it was pre-trained, and can be shared by many rankers.

    Source: the update of Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), section 4.1,
    there beside a weight matrix, here beside the identity; its place, between a frozen module and what follows, and the
    shortcut around it are those of the adapters of Houlsby et al., "Parameter-Efficient Transfer Learning for NLP"
    (ICML 2019).

    >>> adapter = LowRankAdapter(width=6, rank=2)
    >>> sum(parameter.numel() for parameter in adapter.parameters())
    24
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)  # A
        self.up = nn.Linear(rank, width, bias=False)  # B
        nn.init.zeros_(self.up.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (n, width) to (n, width); with no rows at all nothing is called, and nothing gets a zero gradient."""
        return vectors + self.up(self.down(vectors)) if len(vectors) else vectors
