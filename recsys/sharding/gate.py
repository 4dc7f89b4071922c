"""A gate between the backward pass and the update of the tables.

A fused kernel updates its rows as soon as the gradient reaches its output. The gate cuts the graph there: the loss's
backward pass ends at the tables' outputs, the gradients can be looked at (their norm, whether they are finite), and
then the update is let through, scaled or not at all. Replicated tables have an ordinary `.grad`, and the gate steps
them at the same moment.

The norm is exact (`row_gradients.py`). With several processes the gradient at a kernel's output already holds every
process's rows, divided by the number of processes: sums of squares add up.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.processes import reads_without_waiting
from recsys.sharding.row_gradients import KernelRows, Lookup


class TableGate:
    """Holds back the update of every table under a module until `release` or `discard`.

    It stays in place until `close`. A backward pass that is neither released nor discarded before the next one is held
    too: the norm is then that of their summed gradient, and the fused kernels' updates are released one after the other
    (which under Adagrad is not the update of the sum).
    """

    def __init__(self, module: nn.Module | Inventory) -> None:
        self._kernels = inventory_of(module).fused
        self._rows = [KernelRows(kernel) for kernel in self._kernels]
        self._replicated = inventory_of(module).replicated()
        self._lookups: list[list[Lookup]] = [[] for _ in self._kernels]
        # On the kernel and not on its collection: between the two lies the exchange with other processes, whose
        # backward must have run when the norm is taken.
        self._hooks = [
            kernel.module.register_forward_hook(_CutGraph(lookups), with_kwargs=True)
            for kernel, lookups in zip(self._kernels, self._lookups, strict=True)
        ]

    def gradients(self) -> list[Tensor]:
        """Return all that the loss's backward pass left at the tables, to be judged or scaled in place.

        The gradients at the kernels' outputs, (B, sum of D), one per kernel and forward pass that the loss depends on,
        and those of replicated tables, (rows, D).
        """
        held = [lookup.leaf.grad for lookups in self._lookups for lookup in lookups if lookup.leaf.grad is not None]
        return [*held, *self._replicated_gradients().values()]

    def squared_norms(self) -> dict[str, Tensor]:
        """Return the squared L2 norm of each table's gradient, as far as it falls to this process.

        float64 scalars by table name, to be summed over the processes: a sharded table falls to those that hold pieces
        of it, a replicated one to the first (its gradient must have been averaged). A table that the loss does not
        reach is left out.
        """
        norms: dict[str, Tensor] = {}
        for kernel, rows, lookups in zip(self._kernels, self._rows, self._lookups, strict=True):
            reached = [lookup for lookup in lookups if lookup.leaf.grad is not None]
            if reached:
                # Two pieces of one table (column-wise sharding) may lie in one kernel: their squares add up.
                for name, squared in zip(kernel.tables, rows.squared_norms(reached).unbind(), strict=True):
                    norms[name] = norms[name] + squared if name in norms else squared
        if dist.get_rank() == 0:
            for name, gradient in self._replicated_gradients().items():
                norms[name] = torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
        return norms

    def leaves(self, part: str) -> list[Tensor]:
        """Return what the rest of the model was given for the outputs of the part's kernels, (B, sum of D) each."""
        return [lookup.leaf for lookups in self._lookups_of(part).values() for lookup in lookups]

    def inner_products(self, part: str, gradients: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """Return the inner products of S gradients of the part's sharded tables, (S, S) float64.

        To be summed over the processes; None where this process looked nothing up.

        Args:
            gradients: S times the gradients with respect to `leaves(part)`.
        """
        by_leaf = iter(zip(*gradients, strict=True))  # for each leaf, its S gradients
        products = [
            self._rows[index].inner_products(lookups, [next(by_leaf) for _ in lookups])
            for index, lookups in self._lookups_of(part).items()
        ]
        return torch.stack(products).sum(dim=0) if products else None

    def release(self, keep: Tensor, scale: Tensor | None = None) -> None:
        """Let the held updates through, their gradients times `scale`, or withhold them where `keep` is false.

        Args:
            keep: () bool. On a GPU it is not read by the host: withheld updates are made with zero gradients, which
                leave rows and accumulators as they are.
            scale: () float, or None for 1.
        """
        is_read = reads_without_waiting(keep.device)
        if is_read and not keep:
            self.discard()
            return
        gradients = self.gradients()
        if scale is not None and gradients:
            torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        if not is_read:
            for gradient in gradients:
                gradient.masked_fill_(~keep, 0.0)
        reached = [lookup for lookups in self._lookups for lookup in lookups if lookup.leaf.grad is not None]
        if reached:
            # The second half of the backward pass, from the kernels' outputs to their rows: it updates them.
            torch.autograd.backward([lookup.output for lookup in reached], [lookup.leaf.grad for lookup in reached])
        for collection in self._replicated:
            collection.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Drop the held updates: no table changes."""
        for lookups in self._lookups:
            lookups.clear()
        for collection in self._replicated:
            collection.optimizer.zero_grad()

    def close(self) -> None:
        """Take the gate away: kernels update inside the backward pass again, and replicated tables not at all."""
        self.discard()
        for hook in self._hooks:
            hook.remove()

    def _replicated_gradients(self) -> dict[str, Tensor]:
        return {
            name: table.grad
            for tables in self._replicated.values()
            for name, table in tables.items()
            if table.grad is not None
        }

    def _lookups_of(self, part: str) -> dict[int, list[Lookup]]:
        """Return the lookups of the part's kernels that were used in this step, by kernel; a kernel is of one part."""
        return {
            index: lookups
            for index, (kernel, lookups) in enumerate(zip(self._kernels, self._lookups, strict=True))
            if lookups and kernel.tables[0].startswith(f"{part}.")
        }


class _CutGraph:
    """Forward hook of a kernel: the model goes on from a detached copy of the output."""

    def __init__(self, lookups: list[Lookup]) -> None:
        self._lookups = lookups

    def __call__(self, kernel: nn.Module, arguments: tuple, keywords: dict[str, Any], output: Tensor) -> Tensor | None:
        if not output.requires_grad:  # evaluation, or a frozen part: there is no graph to cut
            return None
        # The loss's backward pass ends at the leaf; the output keeps its way to the kernel for `release`.
        leaf = output.detach().requires_grad_()
        weights = keywords["per_sample_weights"]
        detached = None if weights is None else weights.detach()
        self._lookups.append(Lookup(keywords["indices"], keywords["offsets"], detached, output, leaf))
        return leaf
