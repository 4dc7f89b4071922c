"""FinalMLP: two streams of plain layers over differently gated fields, joined by a bilinear form.

Source: Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction" (AAAI 2023).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.interactions.crossing import Crossing
from recsys.interactions.mlp import Mlp


class FeatureGate(nn.Module):
    """Feature selection of one stream: the fields e become 2 sigmoid(gate(e)) * e, the gate being a small network.

    In the paper each stream's gate sees fields of its own choice, such as the user's or the item's; here both see all
    of them, and differ in what they learn.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, width))

    def forward(self, rows: Tensor) -> Tensor:
        """Map (B, width) to (B, width)."""
        return 2 * self.gate(rows).sigmoid() * rows


class BilinearFusion(nn.Module):
    """Join two vectors, each cut into heads, by the sum over heads of b + w1^T o1 + w2^T o2 + o1^T W o2.

    In the paper the result is the logit; here each of `output_width` numbers has such weights of its own.

    Args:
        heads: divides both widths.
    """

    def __init__(self, first_width: int, second_width: int, heads: int, output_width: int) -> None:
        super().__init__()
        self._heads = heads
        # The sum over heads of w^T o is that of the heads side by side.
        self.first = nn.Linear(first_width, output_width)
        self.second = nn.Linear(second_width, output_width, bias=False)
        # The sum over heads of o1^T W o2 is linear in the products of their numbers.
        self.products = nn.Linear(first_width * second_width // heads, output_width, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map (B, first_width) and (B, second_width) to (B, output_width)."""
        ones, others = (rows.unflatten(1, (self._heads, -1)) for rows in (first, second))
        products = ones.unsqueeze(3) * others.unsqueeze(2)  # (B, heads, first_width / heads, second_width / heads)
        return self.first(first) + self.second(second) + self.products(products.flatten(1))


class TwoStreamNetwork(Crossing):
    """FinalMLP: two gated views of the fields, layers over each, and the bilinear fusion of both.

    Args:
        first_widths, second_widths: of the layers of the streams.
        gate_width: of the hidden layer of each stream's gate.
        heads: divides the last width of both streams.

    >>> TwoStreamNetwork(3, 4, [8, 4], [6], gate_width=5, heads=2, output_width=7, dropout=0.0).output_width
    7
    """

    def __init__(
        self,
        num_fields: int,
        dimension: int,
        first_widths: Sequence[int],
        second_widths: Sequence[int],
        *,
        gate_width: int,
        heads: int,
        output_width: int,
        dropout: float,
    ) -> None:
        super().__init__(output_width)
        width = num_fields * dimension
        self.gates = nn.ModuleList(FeatureGate(width, gate_width) for _ in range(2))
        self.streams = nn.ModuleList(Mlp(width, widths, dropout) for widths in (first_widths, second_widths))
        self.fusion = BilinearFusion(first_widths[-1], second_widths[-1], heads, output_width)

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, output_width)."""
        rows = fields.flatten(1)
        first, second = (stream(gate(rows)) for gate, stream in zip(self.gates, self.streams, strict=True))
        return self.fusion(first, second)
