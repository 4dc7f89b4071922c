"""Reads the gates of a composition while rows pass it: which branch does each segment rely on?"""

from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.composition.branches import Composition
from recsys.features.batch import Batch


class GateReading:
    """The mean gate of each segment over the rows that pass a composition while this is open, as a context manager.

    Of several processes each reads its own rows; those that it passes again to keep in step with the others count too.

    Args:
        composition: and whatever inner ones it stands on; one without gates costs nothing and gives no means.
        num_segments: S.
    """

    def __init__(self, composition: Composition, num_segments: int) -> None:
        self._composition, self._num_segments = composition, num_segments
        self._nested = [module for module in composition.modules() if isinstance(module, Composition)]
        self._noted: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}  # (2, S) each: the sum of its gates, and their number

    def __enter__(self) -> "GateReading":
        for module in self._nested:
            module.noted_gates = self._noted
        self._hook = self._composition.register_forward_hook(self._add)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hook.remove()
        for module in self._nested:
            module.noted_gates = None

    def means(self, world_size: int) -> dict[str, dict[int, float]]:
        """Return branch -> segment -> mean gate, for the segments that had rows; waits for the device.

        With several processes every one calls it and receives the mean over all of their rows.
        """
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values()))  # (gates, 2, S)
        if world_size > 1:
            dist.all_reduce(sums)
        found = zip(self._sums, sums.tolist(), strict=True)
        return {
            branch: {
                segment: total / rows for segment, (total, rows) in enumerate(zip(*of_branch, strict=True)) if rows
            }
            for branch, of_branch in found
        }

    def _add(self, composition: Composition, arguments: tuple[Any, ...], output: Tensor) -> None:
        batch: Batch = arguments[0]
        for branch, gates in self._noted.items():
            values = torch.stack([gates.detach().double(), torch.ones_like(gates, dtype=torch.float64)])  # (2, B)
            empty = values.new_zeros(2, self._num_segments)
            self._sums[branch] = self._sums.get(branch, empty).index_add(1, batch.segment, values)
        self._noted.clear()
