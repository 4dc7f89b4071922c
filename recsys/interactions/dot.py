"""DotInteraction: every pair of fields by its dot product."""

import torch
from torch import Tensor

from recsys.interactions.crossing import Crossing


class DotInteraction(Crossing):
    """The dot products of all pairs of fields, beside the fields themselves.

    Source: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems" (2019),
    section 2.1.3. There the products stand beside the vector of all dense features alone; here every dense feature
    is a field, so all fields pass along, as in the inner-product network of Qu et al., "Product-based Neural Networks
    for User Response Prediction" (ICDM 2016), section III.

    >>> DotInteraction(num_fields=3, dimension=4).output_width
    15
    """

    pairs: Tensor

    def __init__(self, num_fields: int, dimension: int) -> None:
        super().__init__(num_fields * dimension + num_fields * (num_fields - 1) // 2)
        pairs = torch.triu_indices(num_fields, num_fields, offset=1)
        self.register_buffer("pairs", pairs[0] * num_fields + pairs[1], persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F * D + F (F - 1) / 2), the pairs in the order (0, 1), (0, 2), ..., (1, 2), ..."""
        products = torch.bmm(fields, fields.transpose(1, 2))  # (B, F, F)
        return torch.cat([fields.flatten(1), products.flatten(1).index_select(1, self.pairs)], dim=1)
