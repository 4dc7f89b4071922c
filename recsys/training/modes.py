"""Training modes: what of the embedding tower learns. Every other part always does.

A frozen module is frozen three times over: its parameters ask for no gradient, it stays in evaluation mode (batch
statistics and dropout change without any gradient), and its forward pass runs without a graph, because a fused table
ignores the first. That it is also left out of every optimizer is `optimizer.py`'s doing, and
`monitoring/frozen_proof.py` checks the sum of it all.

The tower has two halves: its tables, and the dense layers above them. A mode freezes both, one, or none; `stages.py`
goes from mode to mode within a run. A module of the tower whose `stays_frozen` is set is frozen in every mode.
"""

from collections.abc import Iterator, Mapping

from torch import nn

from recsys.errors import TrainingError, UsageError
from recsys.monitoring.frozen_proof import frozen_parts
from recsys.sharding.inventory import inventory_of

END_TO_END = "end_to_end"
FROZEN_TOWER = "frozen_tower"
TOWER_TABLES = "tower_tables"
TOWER_DENSE = "tower_dense"

TOWER, _TABLES_CHILD = "embedding_tower", "ebc"
"""The part that modes are about, and the child of it that holds its tables."""

TABLES, DENSE = "tables", "dense"
_LEARNING = {FROZEN_TOWER: (), TOWER_TABLES: (TABLES,), TOWER_DENSE: (DENSE,), END_TO_END: (TABLES, DENSE)}


def learning_halves(mode: str) -> tuple[str, ...]:
    """Return which of the tower's halves, `TABLES` and `DENSE`, learn in a mode.

    Raises:
        UsageError: no such mode.

    >>> learning_halves("tower_tables")
    ('tables',)
    """
    if mode not in _LEARNING:
        *others, last = sorted(_LEARNING)
        raise UsageError(f"Training mode `{mode}` is unknown; expected {', '.join(others)} or {last}.")
    return _LEARNING[mode]


def apply_training_mode(ranker: nn.Module, mode: str) -> tuple[str, ...]:
    """Put the ranker into a training mode and return the names of the parts that are frozen as a whole.

    Call it before the ranker is wrapped and before optimizers are made: both leave out what is frozen. A wrapped
    ranker may go from mode to mode; its optimizers must then be assigned anew.

    Raises:
        UsageError: no such mode, or it asks for a half that the tower has not.
        TrainingError: the tower cannot be frozen, because it does not know how or `train()` would thaw it.
    """
    learning = learning_halves(mode)
    inventory = inventory_of(ranker)
    module = inventory.module
    tower = module.get_submodule(TOWER)
    dense = inventory.under(TOWER).dense_parameters()
    if len(learning) == 1:
        _require_halves(dense, mode)
    if len(learning) < len(_LEARNING[END_TO_END]):
        _require_freezable(tower)
    if hasattr(tower, "is_frozen"):
        frozen = modules_frozen_in(module, mode)
        for path, part in ((TOWER, tower), *((path, module.get_submodule(path)) for path, _ in _halves(tower, TOWER))):
            _set_frozen(part, path in frozen)
    _ask_for_gradients(tower, dense, learning)
    module.train()
    _require_frozen_for_good(tower)
    return frozen_parts(module)


def modules_frozen_in(ranker: nn.Module, mode: str) -> tuple[str, ...]:
    """Return the names of the modules that a mode freezes, whatever the modules' own flags say: the tower or halves."""
    learning = learning_halves(mode)
    if not learning:
        return (TOWER,)
    halves = _halves(ranker.get_submodule(TOWER), TOWER)
    return tuple(path for path, half in halves if half not in learning)


def _halves(module: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    """Yield the outermost modules that are of one half of the tower alone, each with its half.

    A module that stays frozen is of neither half: (path, "").
    """
    for name, child in module.named_children():
        below = f"{path}.{name}"
        if getattr(child, "stays_frozen", False):
            yield below, ""
        elif name == _TABLES_CHILD:
            yield below, TABLES
        elif any(_is_apart(each, inner) for each, inner in child.named_modules(prefix=below)):
            yield from _halves(child, below)
        else:
            yield below, DENSE


def _is_apart(path: str, module: nn.Module) -> bool:
    """Whether what is around a module cannot be of one half alone."""
    return path.endswith(f".{_TABLES_CHILD}") or getattr(module, "stays_frozen", False)


def _set_frozen(module: nn.Module, is_frozen: bool) -> None:
    setattr(module, "is_frozen", is_frozen)  # noqa: B010 - an attribute of what can be frozen, not of every module


def _ask_for_gradients(tower: nn.Module, dense: Mapping[str, nn.Parameter], learning: tuple[str, ...]) -> None:
    ids = {id(parameter) for parameter in dense.values()}
    staying = {
        id(parameter)
        for module in tower.modules()
        if getattr(module, "stays_frozen", False)
        for parameter in module.parameters()
    }
    for parameter in tower.parameters():
        learns = (DENSE if id(parameter) in ids else TABLES) in learning and id(parameter) not in staying
        if not learns:
            parameter.grad = None  # an optimizer would still step by one left from before
        if parameter.is_leaf:  # torch refuses to change the flag of any other
            parameter.requires_grad_(learns)


def _require_freezable(tower: nn.Module) -> None:
    if not hasattr(tower, "is_frozen"):
        raise TrainingError(
            f"A {type(tower).__name__} has no `is_frozen` and cannot be frozen: its forward pass must run without a "
            "graph when that is set, since fused tables ignore `requires_grad`."
        )


def _require_halves(dense: Mapping[str, nn.Parameter], mode: str) -> None:
    if not dense:
        raise UsageError(
            f"Training mode `{mode}` is about one half of the tower, and this tower has tables alone (imported vectors "
            f"have no layers above them). Choose {FROZEN_TOWER} or {END_TO_END}."
        )


def _require_frozen_for_good(tower: nn.Module) -> None:
    """Raise if `ranker.train()`, which every loop calls, puts something frozen back into training mode."""
    for path, module in tower.named_modules():
        if getattr(module, "is_frozen", False):
            thawed = [name for name, child in module.named_modules(prefix=path) if child.training]
            if thawed:
                name = f"{TOWER}.{thawed[0]}" if thawed[0] else TOWER
                raise TrainingError(
                    f"`{name}` goes back to training mode with `ranker.train()`: its batch statistics would change. "
                    "The part's `train()` must leave it in evaluation mode while `is_frozen` is set."
                )
