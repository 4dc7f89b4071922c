"""What every crossing promises: the fields of a row in, one vector out."""

from torch import Tensor, nn


class Crossing(nn.Module):
    """Base of the networks that cross fields: (B, F, D) in, (B, output_width) out."""

    def __init__(self, output_width: int) -> None:
        super().__init__()
        self.output_width = output_width

    def forward(self, fields: Tensor) -> Tensor:
        """Map the fields (B, F, D) to (B, output_width)."""
        raise NotImplementedError
