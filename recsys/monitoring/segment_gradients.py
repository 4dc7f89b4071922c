"""Which user segments pull a shared part where: each segment's share of its gradient, and how far they agree.

The loss is a sum over rows, so a part's gradient g is the sum of its segments' gradients: g_s is what the rows of
segment s alone contribute (row weights and the loss's divisor as in the whole batch). Of them are reported

- share of s: |g_s| over the sum of all |g_t|; the shares of a batch add up to 1;
- cosine of s: that of g_s with g - g_s, what all other segments ask for. Near 1 the segment agrees with the rest, near
  0 it asks for something unrelated, below 0 the segments pull the part apart (the gradient conflict of Yu et al.,
  "Gradient Surgery for Multi-Task Learning", NeurIPS 2020).

Both are exact, tables included, and of the same gradient as the norms (`gradient_norms.py`). A part computes each row's
output from that row alone, so g_s is one backward pass through the part of the output's gradient with all rows but
those of s at zero: the forward pass is not repeated, and no random number is drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.processes import ProcessContext


class SegmentedBatch(Protocol):
    """What the part is called with; `segment` is (B,) int64."""

    segment: Tensor


@dataclass(frozen=True)
class SegmentView:
    """What the segments' gradients say about one part in one step, by segment number.

    Attributes:
        shares: in [0, 1]; 0 for a segment that has no row in the batch, and for all of them where the part is frozen.
        cosines: in [-1, 1]; a segment is left out where one side has no gradient. 0 where the part is frozen.

    Both are empty where the gradient is not finite.
    """

    shares: dict[int, float]
    cosines: dict[int, float]


class SegmentGradients:
    """Reads a part's gradients by segment in the steps that it is armed for.

    `arm`, then the forward and backward pass with `retain_graph=True`, then `read`, all before the gate is released.

    Args:
        ranker: as `wrap_ranker` returned it; under a gate.
        part: name of the child to look at. It is called once per step with the batch, and with `rows` where it computes
            some rows alone.
        num_segments: S.
    """

    def __init__(
        self, ranker: nn.Module | Inventory, part: str, gate: TableGate, num_segments: int, context: ProcessContext
    ) -> None:
        self._inventory = inventory_of(ranker).under(part)
        self._part, self._gate, self._num_segments, self._context = part, gate, num_segments, context
        self._is_armed = False
        self._segment: Tensor | None = None  # of the output's rows
        self._output: Tensor | None = None
        self._gradient: Tensor | None = None
        child = self._inventory.module.get_submodule(part)
        # The output is where the part ends: what comes back to it is the gradient that each segment has a share of.
        self._hook = child.register_forward_hook(self._keep_output, with_kwargs=True)

    def arm(self) -> None:
        """Look at the next forward and backward pass."""
        self._is_armed = True

    def read(self) -> Tensor | None:
        """Return the inner products of the segments' gradients, (S, S) float64 and whole in every process.

        None where the part is frozen. Every process calls it. Gradients, weights and random state are as before.

        Raises:
            TrainingError: the part learns, but the loss's backward pass did not come through its output.
        """
        self._is_armed = False
        output, gradient, segment = self._output, self._gradient, self._segment
        self._output = self._gradient = self._segment = None
        if output is None or segment is None:
            return None
        if gradient is None:
            raise TrainingError(
                f"The gradient of `{self._part}` by segment is not known: no gradient came through its output. Either "
                "the loss does not depend on that part, or `training.segment_view_every` must be 0 for this model."
            )
        parameters = [p for p in self._inventory.averaged_parameters() if p.requires_grad]
        leaves = self._gate.leaves(self._part)
        by_segment = [
            self._gradients_of(output, gradient.masked_fill((segment != number).unsqueeze(1), 0.0), parameters, leaves)
            for number in range(self._num_segments)
        ]
        dense = torch.stack([flat for flat, _ in by_segment])
        return self._joined(dense, self._gate.inner_products(self._part, [held for _, held in by_segment]))

    def close(self) -> None:
        """Look no more."""
        self._hook.remove()

    @staticmethod
    def _gradients_of(
        output: Tensor, gradient: Tensor, parameters: Sequence[Tensor], leaves: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Pass a gradient back through the part; return that of its parameters, flat, and those at its leaves."""
        tensors = [*parameters, *leaves]
        kept = [tensor.grad for tensor in tensors]
        for tensor in tensors:
            tensor.grad = None
        # Not autograd.grad: it would leave out the exchange with other processes where this one holds no table.
        output.backward(gradient, retain_graph=True)
        found = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tensors]
        for tensor, own in zip(tensors, kept, strict=True):
            tensor.grad = own
        dense = [own.flatten() for own in found[: len(parameters)]]
        return torch.cat([*dense, gradient.new_zeros(0)]), found[len(parameters) :]

    def _joined(self, dense: Tensor, of_tables: Tensor | None) -> Tensor:
        """Add the dense half's inner products, of the mean over the processes, to those of the tables' pieces."""
        size = self._num_segments
        products = torch.zeros(size, size, dtype=torch.float64, device=dense.device) if of_tables is None else of_tables
        if self._context.world_size > 1:
            dist.all_reduce(dense)
            dense = dense / self._context.world_size
            dist.all_reduce(products)
        return products + dense.double() @ dense.double().T

    def _keep_output(self, part: nn.Module, arguments: tuple, keywords: Mapping[str, Any], output: Tensor) -> None:
        if not self._is_armed or not output.requires_grad:
            return
        batch: SegmentedBatch = arguments[0]
        rows = arguments[1] if len(arguments) > 1 else keywords.get("rows")
        self._segment = batch.segment if rows is None else batch.segment[rows]
        self._output = output
        output.register_hook(self._keep_gradient)

    def _keep_gradient(self, gradient: Tensor) -> None:
        if self._is_armed:  # the passes made for the segments come by here as well
            self._gradient = gradient.detach()


def segment_view(products: Tensor | None, num_segments: int) -> SegmentView:
    """Turn `SegmentGradients.read`'s inner products, (S, S), into shares and cosines; waits for the device.

    With P[s, t] = <g_s, g_t>: |g_s| = sqrt(P[s, s]), <g_s, g - g_s> = sum_t P[s, t] - P[s, s], and
    |g - g_s|^2 = sum_tu P[t, u] - 2 sum_t P[s, t] + P[s, s].

    >>> products = torch.tensor([[9.0, -12.0], [-12.0, 16.0]])  # gradients (3, 0) and (-4, 0)
    >>> view = segment_view(products, num_segments=2)
    >>> view.shares[0], view.cosines[0]
    (0.42857142857142855, -1.0)
    """
    if products is None:
        nothing = dict.fromkeys(range(num_segments), 0.0)
        return SegmentView(dict(nothing), nothing)
    if not products.isfinite().all():
        return SegmentView({}, {})
    own = products.diagonal()
    norms = own.clamp(min=0).sqrt()
    with_rest = products.sum(dim=1) - own
    rest = (products.sum() - 2 * products.sum(dim=1) + own).clamp(min=0).sqrt()
    lengths, inner, rests = norms.tolist(), with_rest.tolist(), rest.tolist()
    total = sum(lengths)
    # Where segments cancel out, their rest is rounding: a cosine with it would be noise.
    least = 1e-6 * total
    return SegmentView(
        shares={s: length / total if total else 0.0 for s, length in enumerate(lengths)},
        cosines={
            s: max(-1.0, min(1.0, inner[s] / (lengths[s] * rests[s])))
            for s in range(num_segments)
            if lengths[s] > least and rests[s] > least
        },
    )
