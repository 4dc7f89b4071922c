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

    def look_up(self, batch: Batch) -> Tensor:
        """Return the vectors of the batch's ids and segments, (B, sum of their widths).

        Every row is looked up, since a rank may not skip a sharded table.
        """
        return self.fields.look_up(batch)

    def forward(
        self,
        batch: Batch,
        rows: Tensor | None = None,
        tower_field: Tensor | None = None,
        looked_up: Tensor | None = None,
    ) -> Tensor:
        """Return one vector per row.

        Only `rows` pass the layers. With no rows at all the layers are not called, so that they get no gradient rather
        than a zero one.

        Args:
            rows: (n,) int64 positions in the batch; None is all of them.
            tower_field: (n, D) where the fields have one for the tower, else None.
            looked_up: what `look_up` gave for the batch; None to look it up now.

        Returns:
            (B, output_width), or (n, output_width).
        """
        vectors, dense = self.look_up(batch) if looked_up is None else looked_up, batch.dense
        if rows is not None:
            vectors, dense = vectors.index_select(0, rows), dense.index_select(0, rows)
        if not len(vectors):
            # No numbers, but a graph that reaches the tables.
            return vectors.flatten(1).sum(dim=1, keepdim=True).expand(0, self.output_width)
        return self.deep(self.crossing(self.fields(vectors, dense, tower_field)))
