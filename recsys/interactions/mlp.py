"""The plain multilayer perceptron, on top of every crossing and in heads and experts; and the crossing without one."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.interactions.crossing import Crossing


class Mlp(nn.Module):
    """Layers of linear, ReLU and dropout, one per width.

    >>> Mlp(6, [4, 3], dropout=0.0).output_width
    3
    """

    def __init__(self, input_width: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(input_width, width), nn.ReLU()]
            # No layer rather than one that does nothing: dropout of 0 would still be a step of every pass.
            layers += [nn.Dropout(dropout)] if dropout else []
            input_width = width
        self.output_width = input_width
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (B, input_width) to (B, output_width)."""
        return self.layers(rows)


class FlatCrossing(Crossing):
    """Lay the fields side by side and cross nothing: the layers above find what they can, as in a plain deep model.

    Source: Covington, Adams and Sargin, "Deep Neural Networks for YouTube Recommendations" (RecSys 2016), section 4.

    >>> FlatCrossing(num_fields=3, dimension=4).output_width
    12
    """

    def __init__(self, num_fields: int, dimension: int) -> None:
        super().__init__(num_fields * dimension)

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F * D)."""
        return fields.flatten(1)
