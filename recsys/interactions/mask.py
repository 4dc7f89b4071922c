"""MaskNet: blocks whose input is multiplied by a mask that the row itself computes.

Source: Wang, She and Zhang, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided
Mask" (DLP-KDD 2021).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from recsys.interactions.crossing import Crossing


class MaskBlock(nn.Module):
    """ReLU(LayerNorm(W (mask * x))), where the mask is W2 ReLU(W1 e + b1) + b2 of the row's fields e: equations 3 to 9.

    Args:
        guide_width: of the fields side by side, e.
        input_width: of what is masked, x.
        width: of the block's output.
        mask_ratio: the mask's hidden width over the width of the mask (the paper's reduction ratio).
    """

    def __init__(self, guide_width: int, input_width: int, width: int, mask_ratio: float) -> None:
        super().__init__()
        mask_width = max(1, round(input_width * mask_ratio))
        self.mask = nn.Sequential(nn.Linear(guide_width, mask_width), nn.ReLU(), nn.Linear(mask_width, input_width))
        # The norm brings its own bias.
        self.linear = nn.Linear(input_width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, guide: Tensor, inputs: Tensor) -> Tensor:
        """Map the fields (B, guide_width) and the input (B, input_width) to (B, width)."""
        return torch.relu(self.norm(self.linear(self.mask(guide) * inputs)))


class _FieldNorm(nn.Module):
    """LayerNorm over each field's numbers, with a gain and a bias per field: LN_EMB of equation 6."""

    def __init__(self, num_fields: int, dimension: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_fields, dimension))
        self.bias = nn.Parameter(torch.zeros(num_fields, dimension))

    def forward(self, fields: Tensor) -> Tensor:
        return torch.addcmul(self.bias, layer_norm(fields, fields.shape[-1:]), self.gain)


class SerialMaskNet(Crossing):
    """Mask blocks one after another: the first over the fields, each next over the block before (section 4.3.1).

    >>> SerialMaskNet(num_fields=3, dimension=4, block_widths=[8, 6], mask_ratio=0.5).output_width
    6
    """

    def __init__(self, num_fields: int, dimension: int, block_widths: Sequence[int], mask_ratio: float) -> None:
        super().__init__(block_widths[-1])
        width = num_fields * dimension
        inputs = [width, *block_widths[:-1]]
        self.norm = _FieldNorm(num_fields, dimension)
        self.blocks = nn.ModuleList(
            MaskBlock(width, before, after, mask_ratio) for before, after in zip(inputs, block_widths, strict=True)
        )

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, the last block's width)."""
        guide, hidden = fields.flatten(1), self.norm(fields).flatten(1)
        for block in self.blocks:
            hidden = block(guide, hidden)
        return hidden


class ParallelMaskNet(Crossing):
    """Mask blocks side by side, each over the fields, their outputs concatenated (section 4.3.2).

    >>> ParallelMaskNet(num_fields=3, dimension=4, block_widths=[8, 8], mask_ratio=0.5).output_width
    16
    """

    def __init__(self, num_fields: int, dimension: int, block_widths: Sequence[int], mask_ratio: float) -> None:
        super().__init__(sum(block_widths))
        width = num_fields * dimension
        self.norm = _FieldNorm(num_fields, dimension)
        self.blocks = nn.ModuleList(MaskBlock(width, width, after, mask_ratio) for after in block_widths)

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, the sum of the blocks' widths)."""
        guide, normed = fields.flatten(1), self.norm(fields).flatten(1)
        return torch.cat([block(guide, normed) for block in self.blocks], dim=1)
