"""InteractionNetwork: fields, a crossing over them, and layers on top."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.interactions.crossing import Crossing
from recsys.interactions.fields import InteractionFields
from recsys.interactions.mlp import Mlp


class InteractionNetwork(nn.Module):
    """Cross the fields of each row and map the result to one vector.

    The layers stand on the crossing ("stacked" in Wang et al., "DCN V2", WWW 2021, figure 1), for every crossing alike,
    so that two networks differ in their crossing only.

    Attributes:
        output_width: the last of `hidden_widths`, or the crossing's own where there are none.
    """

    def __init__(
        self, fields: InteractionFields, crossing: Crossing, hidden_widths: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.fields = fields
        self.crossing = crossing
        self.deep = Mlp(crossing.output_width, hidden_widths, dropout)
        self.output_width = self.deep.output_width

    def forward(self, batch: Batch, rows: Tensor | None = None, tower_field: Tensor | None = None) -> Tensor:
        """Return one vector per row.

        Every row is looked up, since a rank may not skip a sharded table; only `rows` pass the layers. With no rows at
        all the layers are not called, so that they get no gradient rather than a zero one.

        Args:
            rows: (n,) int64 positions in the batch; None is all of them.
            tower_field: (n, D) where the fields have one for the tower, else None.

        Returns:
            (B, output_width), or (n, output_width).
        """
        looked_up, dense = self.fields.look_up(batch), batch.dense
        if rows is not None:
            looked_up, dense = looked_up.index_select(0, rows), dense.index_select(0, rows)
        if not len(looked_up):
            # No numbers, but a graph that reaches the tables.
            return looked_up.flatten(1).sum(dim=1, keepdim=True).expand(0, self.output_width)
        return self.deep(self.crossing(self.fields(looked_up, dense, tower_field)))
