"""Training modes: which parts of the ranker learn.

A frozen part is frozen three times over: its parameters ask for no gradient, it stays in evaluation mode (batch
statistics and dropout move without any gradient), and its whole forward pass runs without a graph, because a fused
table ignores the first. That it is also left out of every optimizer is `optimizer.py`'s doing, and
`monitoring/frozen_proof.py` checks the sum of it all.
"""

from torch import nn

from recsys.errors import TrainingError, UsageError
from recsys.monitoring.frozen_proof import frozen_parts

END_TO_END = "end_to_end"
FROZEN_TOWER = "frozen_tower"
_TOWER = "embedding_tower"


def apply_training_mode(ranker: nn.Module, name: str) -> tuple[str, ...]:
    """Put the ranker into a training mode and return the names of the parts that stand still.

    Call it before the ranker is wrapped and before optimizers are made: both leave out what stands still.

    Raises:
        UsageError: no such mode.
        TrainingError: the tower cannot be frozen, because it does not know how or `train()` would thaw it.
    """
    if name not in (END_TO_END, FROZEN_TOWER):
        raise UsageError(f"Training mode `{name}` is unknown; expected {END_TO_END} or {FROZEN_TOWER}.")
    ranker.train()
    if name == FROZEN_TOWER:
        _freeze(ranker.get_submodule(_TOWER))
        _require_frozen_for_good(ranker)
    return frozen_parts(ranker)


def _freeze(part: nn.Module) -> None:
    if not hasattr(part, "is_frozen"):
        raise TrainingError(
            f"A {type(part).__name__} has no `is_frozen` and cannot be frozen: its forward pass must run without a "
            "graph when that is set, since fused tables ignore `requires_grad`."
        )
    setattr(part, "is_frozen", True)  # noqa: B010 - an attribute of the parts that can be frozen, not of every module
    part.requires_grad_(False)
    for parameter in part.parameters():
        parameter.grad = None  # one left from before would still move the parameter
    part.eval()


def _require_frozen_for_good(ranker: nn.Module) -> None:
    """Raise if `ranker.train()`, which every loop calls, puts the frozen part back into training mode."""
    ranker.train()
    thawed = [name for name, module in ranker.get_submodule(_TOWER).named_modules() if module.training]
    if thawed:
        raise TrainingError(
            f"`{_TOWER}.{thawed[0]}` goes back to training mode with `ranker.train()`: its batch statistics would "
            "move. The part's `train()` must leave it in evaluation mode while `is_frozen` is set."
        )
