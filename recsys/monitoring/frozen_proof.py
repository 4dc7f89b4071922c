"""Proof that a frozen part stood still: the same bits before and after.

Digested are the part's parameters, its buffers, its tables as this process holds them, and whatever optimizer state is
kept for any of them. State that appears or vanishes counts as moved. The kernels' forward counter is no state of the
part and is left out: evaluation advances it too.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.files import fingerprint_of
from recsys.sharding.fused import dense_buffers, dense_parameters, table_shards, unwrapped

OptimizerState = Callable[[], Mapping[str, Tensor]]
"""Returns optimizer state by name, each name beginning with the part's: "embedding_tower.hidden.weight.exp_avg"."""


class FrozenProof:
    """Digests every frozen part when made, and compares when asked.

    >>> ranker = nn.ModuleDict({"embedding_tower": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    >>> ranker["embedding_tower"].is_frozen = True
    >>> proof = FrozenProof(ranker, dict)
    >>> _ = ranker["head"].weight.data.zero_()
    >>> proof.record()["embedding_tower"]["stood_still"]
    True
    """

    def __init__(self, ranker: nn.Module, optimizer_state: OptimizerState) -> None:
        self._ranker = unwrapped(ranker)
        self._optimizer_state = optimizer_state
        self._before = {part: self._digests(part) for part in frozen_parts(self._ranker)}

    def record(self) -> dict[str, dict[str, Any]]:
        """Compare with the start and return, per frozen part, what can be logged with the run; {} if none is frozen.

        Every process calls it.

        Raises:
            TrainingError: names what moved, on which process, first of all.
        """
        record = {}
        for part, before in self._before.items():
            after = self._digests(part)
            moved = _gathered(sorted(name for name in before | after if before.get(name) != after.get(name)))
            if moved:
                raise TrainingError(
                    f"The frozen part `{part}` did not stand still: {len(moved)} of its tensors moved, among them "
                    f"{moved[0]}. Nothing of a frozen part may reach an optimizer, run in training mode or be written "
                    "to; this run's comparison with an unfrozen one would be void."
                )
            record[part] = {
                "stood_still": True,
                "tensors": len(before),
                "digest_before": fingerprint_of(before),
                "digest_after": fingerprint_of(after),
            }
        return record

    def _digests(self, part: str) -> dict[str, str]:
        state = {name: tensor for name, tensor in self._optimizer_state().items() if name.startswith(f"{part}.")}
        return part_digests(self._ranker, part) | {f"optimizer: {name}": _digest(t) for name, t in state.items()}


def frozen_parts(ranker: nn.Module) -> tuple[str, ...]:
    """Return the names of the children whose `is_frozen` is set."""
    return tuple(name for name, child in unwrapped(ranker).named_children() if getattr(child, "is_frozen", False))


def part_digests(ranker: nn.Module, part: str) -> dict[str, str]:
    """Return a SHA-256 digest of every parameter, buffer and local table piece of one part, by name."""
    child = unwrapped(ranker).get_submodule(part)
    tensors: dict[str, Tensor] = {}
    tensors.update({f"{part}.{name}": tensor for name, tensor in dense_parameters(child).items()})
    tensors.update({f"{part}.{name}": tensor for name, tensor in dense_buffers(child).items()})
    for shard in table_shards(child):
        piece = f"rows {shard.rows.start}-{shard.rows.stop}, columns {shard.columns.start}-{shard.columns.stop}"
        tensors[f"{part}.{shard.table} ({piece})"] = shard.weight
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    # As bytes, so that a NaN equals itself and a negative zero differs from zero.
    digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _gathered(moved: list[str]) -> list[str]:
    """Return what moved in any process, so that all of them stop together."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [f"`{name}`" for name in moved]
    everywhere: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, moved)
    return [f"`{name}` (process {rank})" for rank, names in enumerate(everywhere) for name in names]
