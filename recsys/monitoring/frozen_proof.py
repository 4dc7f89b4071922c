"""Proof that a frozen part is unchanged: the same bits before and after, and nothing between that could change it.

Digested are the part's parameters, its buffers, its tables as each process holds them, and whatever optimizer state is
kept for any of them. State that appears or vanishes counts as a change. The kernels' forward counter is no state of the
part and is left out: evaluation advances it too.

A digest is blind to what leaves no trace: dropout in training mode changes every output of the part and none of its
bits. So every forward pass is watched as well: it must run in evaluation mode and without a graph.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.files import fingerprint_of
from recsys.monitoring.gradient_flow_trace import tensors_in
from recsys.sharding.inventory import Inventory, inventory_of, unwrapped
from recsys.sharding.processes import gathered
from recsys.sharding.state_digests import digests_of, whole_digests

OptimizerState = Callable[[], Mapping[str, Tensor]]
"""Returns optimizer state by name, each name beginning with the part's: "embedding_tower.hidden.weight.exp_avg"."""

_STATE = "optimizer: "  # before the names of optimizer state, so that it is counted apart


class FrozenProof:
    """Digests every frozen module when made, watches its forward passes, and compares when asked.

    A frozen module is a part, or the half of one whose other half learns. Every process makes a proof and calls
    `record`, and each learns of a violation in any of them.

    Args:
        ranker: plain, or as `wrap_ranker` returned it.

    Raises:
        TrainingError: when made: a frozen module is in training mode, asks for gradients, or is not frozen everywhere.
            In a forward pass from then on: it runs in training mode or begins a graph, or was thawed.

    >>> ranker = nn.ModuleDict({"embedding_tower": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    >>> _ = ranker["embedding_tower"].requires_grad_(False).eval()
    >>> ranker["embedding_tower"].is_frozen = True
    >>> proof = FrozenProof(ranker, dict)
    >>> _ = ranker["head"].weight.data.zero_()
    >>> proof.record()["embedding_tower"]["is_unchanged"]
    True
    """

    def __init__(self, ranker: nn.Module, optimizer_state: OptimizerState) -> None:
        self._inventory = inventory_of(ranker)
        self._optimizer_state = optimizer_state
        parts = frozen_modules(ranker)
        _require_same_everywhere(parts)
        self._before = {part: self._digests(part) for part in parts}
        for part in parts:
            _refuse(part, _violations(self._inventory, part))
        self._hooks = [hook for part in parts for hook in _watch(self._inventory.module, part)]

    def record(self) -> dict[str, dict[str, Any]]:
        """Compare with the start and return, per frozen module, what can be logged with the run; {} if none is frozen.

        Raises:
            TrainingError: names what changed or could have, and in which process, the first of all.
        """
        record = {}
        for part, before in self._before.items():
            after = self._digests(part)
            changed = sorted(name for name in before | after if before.get(name) != after.get(name))
            _refuse(part, [f"`{name}` changed" for name in changed] + _violations(self._inventory, part))
            state = sum(name.startswith(_STATE) for name in before)
            processes = gathered(
                {
                    "tensors": len(before) - state,
                    "optimizer_state_tensors": state,
                    "digest_before": fingerprint_of(before),
                    "digest_after": fingerprint_of(after),
                }
            )
            record[part] = {
                "is_unchanged": True,
                "digest_before": fingerprint_of([each["digest_before"] for each in processes]),
                "digest_after": fingerprint_of([each["digest_after"] for each in processes]),
                "processes": processes,
            }
        return record

    def close(self) -> None:
        """Watch no longer; what is no longer proven may be thawed."""
        for hook in self._hooks:
            hook.remove()
        self._before, self._hooks = {}, []

    def _digests(self, part: str) -> dict[str, str]:
        state = {name: tensor for name, tensor in self._optimizer_state().items() if name.startswith(f"{part}.")}
        return part_digests(self._inventory, part) | _of_state(digests_of(state))


def frozen_parts(ranker: nn.Module) -> tuple[str, ...]:
    """Return the names of the children whose `is_frozen` is set."""
    return tuple(name for name, child in unwrapped(ranker).named_children() if getattr(child, "is_frozen", False))


def frozen_modules(ranker: nn.Module) -> tuple[str, ...]:
    """Return the paths of the outermost modules whose `is_frozen` is set: a whole part, or children of one that learns.

    >>> ranker = nn.ModuleDict({"tower": nn.ModuleDict({"tables": nn.Identity(), "layers": nn.Identity()})})
    >>> ranker["tower"]["tables"].is_frozen = True
    >>> frozen_modules(ranker)
    ('tower.tables',)
    """
    found: list[str] = []
    for path, module in unwrapped(ranker).named_modules():
        if path and getattr(module, "is_frozen", False) and not path.startswith(tuple(f"{outer}." for outer in found)):
            found.append(path)
    return tuple(found)


def frozen_fingerprints(ranker: nn.Module, dense_state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return one fingerprint per frozen module, of its whole tables with their accumulators and all its other state.

    The same whatever the number of processes, so that it can travel with a checkpoint. Every process calls it.

    Args:
        dense_state: the dense optimizer's tensors of any shape, by the name of the parameter.
    """
    fingerprints = {}
    for path in frozen_modules(ranker):
        state = {name: tensor for name, tensor in dense_state.items() if name.startswith(f"{path}.")}
        digests = whole_digests(inventory_of(ranker).under(path), with_accumulators=True)
        fingerprints[path] = fingerprint_of(digests | _of_state(digests_of(state)))
    return fingerprints


def part_digests(ranker: nn.Module | Inventory, part: str) -> dict[str, str]:
    """Return a digest of every parameter, buffer and local table shard of one part, by name."""
    inventory = inventory_of(ranker).under(part)
    tensors: dict[str, Tensor] = {**inventory.dense_parameters(), **inventory.dense_buffers()}
    for shard in inventory.shards():
        where = f"rows {shard.rows.start}-{shard.rows.stop}, columns {shard.columns.start}-{shard.columns.stop}"
        tensors[f"{shard.table} ({where})"] = shard.weight
    return digests_of(tensors)


def _of_state(digests: Mapping[str, str]) -> dict[str, str]:
    return {f"{_STATE}{name}": digest for name, digest in digests.items()}


def _violations(inventory: Inventory, part: str) -> list[str]:
    """Return what could change the part, though nothing may have changed yet."""
    own, child = inventory.under(part), inventory.module.get_submodule(part)
    dense = own.dense_parameters().items()
    return [
        *_violations_in_forward(part, child),
        *([] if own.is_current() else [f"the tables of `{part}` were replaced"]),
        *(f"`{name}` asks for a gradient" for name, parameter in dense if parameter.requires_grad),
        *(f"`{name}` holds a gradient" for name, parameter in dense if parameter.grad is not None),
    ]


def _violations_in_forward(part: str, child: nn.Module) -> list[str]:
    return [
        *([] if getattr(child, "is_frozen", False) else [f"`{part}` was thawed: its `is_frozen` is off"]),
        *(f"`{name}` is in training mode" for name, module in child.named_modules(prefix=part) if module.training),
    ]


def _watch(ranker: nn.Module, part: str) -> list[torch.utils.hooks.RemovableHandle]:
    """Refuse, at once and by name, a forward pass in which the part could change or answer at random."""
    child = ranker.get_submodule(part)

    # Raised here, in this process alone: the fault is the code's, so every process has it in the same step.
    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if violations := _violations_in_forward(part, module):
            raise _changed(part, violations)

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        # A graph that came in with an input may go through: that of learning tables through frozen layers.
        came_in = any(tensor.requires_grad for tensor in tensors_in(arguments))
        if isinstance(output, Tensor) and output.requires_grad and not came_in:
            graph = f"`{part}` ran its forward pass with a graph, in which fused tables ignore `requires_grad`"
            raise _changed(part, [graph])

    return [child.register_forward_pre_hook(before), child.register_forward_hook(after)]


def _refuse(part: str, faults: list[str]) -> None:
    """Raise in every process if any process found a fault."""
    everywhere = gathered(faults)
    if len(everywhere) > 1:
        everywhere = [[f"{fault} (process {rank})" for fault in found] for rank, found in enumerate(everywhere)]
    if found := [fault for process in everywhere for fault in process]:
        raise _changed(part, found)


def _changed(part: str, faults: list[str]) -> TrainingError:
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return TrainingError(
        f"The frozen part `{part}` is not proven unchanged: {faults[0]}{more}. Nothing of a frozen part may reach an "
        "optimizer, run in training mode or be written to; this run's comparison with an unfrozen one would be void."
    )


def _require_same_everywhere(parts: tuple[str, ...]) -> None:
    everywhere = gathered(parts)
    if len(set(everywhere)) > 1:
        raise TrainingError(
            f"The processes disagree on what is frozen: {[list(each) for each in everywhere]}. A sharded table that "
            "one process trains and another does not waits for ever. Apply the same training mode in all of them."
        )
