"""FactorisationMachine: the products of all pairs of fields, added up in linear time."""

from torch import Tensor

from recsys.interactions.crossing import Crossing


class FactorisationMachine(Crossing):
    """The second-order term: for fields v_1 ... v_F the sum over all pairs i < j of v_i * v_j.

    It is computed as 0.5 ((sum_i v_i)^2 - sum_i v_i^2), lemma 3.1 of Rendle, "Factorization Machines" (ICDM 2010). The
    sum of its D numbers is Rendle's term, of one dot product a pair, for which the network's `first_order` weights are
    the linear part. As a vector it is what the layers on top of He and Chua, "Neural Factorization Machines for Sparse
    Predictive Analytics" (SIGIR 2017), equation 4, learn from.

    Args:
        is_summed: give the sum of the D numbers instead of the vector.

    >>> FactorisationMachine(dimension=4, is_summed=False).output_width
    4
    """

    def __init__(self, dimension: int, *, is_summed: bool) -> None:
        super().__init__(1 if is_summed else dimension)
        self._is_summed = is_summed

    def forward(self, fields: Tensor) -> Tensor:
        """Map (B, F, D) to (B, D), or to (B, 1)."""
        pairs = 0.5 * (fields.sum(dim=1).square() - fields.square().sum(dim=1))  # (B, D)
        return pairs.sum(dim=1, keepdim=True) if self._is_summed else pairs
