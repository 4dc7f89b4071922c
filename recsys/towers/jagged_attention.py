"""Causal self-attention over jagged lists: every element reads itself and those before it, and never another row's.

Layers run over the elements alone, end to end; only the products of queries and keys are padded, to the longest list
that the schema allows. That bound is known without asking the device, and at up to 50 elements the padded products are
a small part of the work: 2 K D for each element beside some 12 D^2 of the layers.

Source: Kang & McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), section 3. Two things differ: layers are
normalised before, not after (Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020), and a
position is how far back an element lies from the one that reads it, a bias of the attention (Shaw et al.,
"Self-Attention with Relative Position Representations", 2018). So what a list says of each of its beginnings is what it
would say if it ended there, and training may learn from all of them at once.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recsys.features.events import row_of_each

_SPREAD = 0.02  # of what elements start with, as of the weights of a language model


class CausalBlock(nn.Module):
    """Attention and a feed-forward layer, each added to what comes in.

    Args:
        width: D, a multiple of `heads`.
        most: K, of the elements of a list.
        dropout: of what is added.
    """

    distance: Tensor

    def __init__(self, width: int, heads: int, most: int, dropout: float) -> None:
        super().__init__()
        self._heads, self._most = heads, most
        self.attention_norm, self.layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.position = nn.Parameter(torch.zeros(heads, most))
        self.dropout = nn.Dropout(dropout)
        places = torch.arange(most)
        self.register_buffer("distance", places.unsqueeze(1) - places, persistent=False)  # (K, K), below 0: to come

    def forward(self, elements: Tensor, places: Tensor, num_rows: int) -> Tensor:
        """Map the elements of all rows (T, D) to (T, D).

        Args:
            places: (T,) int64, the row of each element times K, and its place in the row.
        """
        elements = elements + self.dropout(self.attended(self._read(elements, places, num_rows)))
        added: Tensor = self.dropout(self.layers(self.layer_norm(elements)))
        return elements + added

    def _read(self, elements: Tensor, places: Tensor, num_rows: int) -> Tensor:
        width = elements.shape[1]
        mixed = self.queries_keys_values(self.attention_norm(elements))  # (T, 3 D)
        padded = mixed.new_zeros(num_rows * self._most, 3 * width).index_copy(0, places, mixed)
        # Behind its list a row is zeros, which stand after all of its elements: none reads them.
        query, key, value = padded.view(num_rows, self._most, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.position[:, self.distance.clamp(min=0)].masked_fill(self.distance < 0, -torch.inf)  # (heads, K, K)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return read.transpose(1, 2).reshape(num_rows * self._most, width).index_select(0, places)


class SequenceEncoder(nn.Module):
    """What each list of vectors says after each of its elements, and before the first.

    A learnt vector stands before every list, so that an empty one says something too: what is known of a newcomer.

    Args:
        width: D.
        most: the longest list.

    >>> encoder = SequenceEncoder(width=4, blocks=1, heads=1, most=3, dropout=0.0)
    >>> encoder(torch.randn(3, 4), torch.tensor([2, 0, 1])).shape  # 3 elements and 3 beginnings
    torch.Size([6, 4])
    """

    def __init__(self, *, width: int, blocks: int, heads: int, most: int, dropout: float) -> None:
        super().__init__()
        self._most = most + 1
        self._scale = width**0.5
        self.start = nn.Parameter(torch.empty(width).uniform_(-_SPREAD, _SPREAD))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, self._most, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Read B lists.

        Args:
            vectors: (E, D), the elements of all rows end to end, the oldest first.
            lengths: (B,), none above the longest list.

        Returns:
            (E + B, D), of every row what it says before its first element, and then after each.
        """
        num_rows, total = len(lengths), len(vectors) + len(lengths)
        rows = row_of_each(lengths + 1, total)
        places = torch.arange(total, device=rows.device) - starts_of(lengths).index_select(0, rows)
        own = row_of_each(lengths, len(vectors))
        behind_start = torch.arange(len(vectors), device=own.device) + own + 1
        elements = self.start.to(vectors.dtype).expand(total, -1).index_copy(0, behind_start, vectors)
        elements = self.dropout(elements * self._scale)
        places = rows * self._most + places
        for block in self.blocks:
            elements = block(elements, places, num_rows)
        return self.norm(elements)


def starts_of(lengths: Tensor) -> Tensor:
    """Return where each row begins in what `SequenceEncoder` returns, (B,) int64, by its list's length (B,)."""
    taken = lengths.long() + 1
    return taken.cumsum(0) - taken
