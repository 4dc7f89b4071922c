"""Training modes: what of the embedding tower learns, and by segment what beside it. Every other part always does.

A frozen module is frozen three times over: its parameters ask for no gradient, it stays in evaluation mode (batch
statistics and dropout change without any gradient), and its forward pass runs without a graph, because a fused table
ignores the first. That it is also left out of every optimizer is `optimizer.py`'s doing, and
`monitoring/frozen_proof.py` checks the sum of it all.

The tower has two halves: its tables, and the dense layers above them. A mode freezes both, one, or none; `stages.py`
goes from mode to mode within a run. A module of the tower whose `stays_frozen` is set is frozen in every mode. In
`by_segment` the tower is frozen, and what lies beside it for user segments learns: adapters on its output, and copies
of it, each of which learns in the halves that its own `learns` names.
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
BY_SEGMENT = "by_segment"

TOWER, _TABLES_CHILD = "embedding_tower", "ebc"
"""The part that modes are about, and the child of it that holds its tables."""

DELTAS = ("tower_adapters", "tower_copies")
"""The parts that hold what segments learn of a frozen tower, where there are any."""

TABLES, DENSE, OF_SEGMENTS = "tables", "dense", "deltas"
_LEARNING = {
    FROZEN_TOWER: (),
    BY_SEGMENT: (OF_SEGMENTS,),
    TOWER_TABLES: (TABLES,),
    TOWER_DENSE: (DENSE,),
    END_TO_END: (TABLES, DENSE),
}


def learning_halves(mode: str) -> tuple[str, ...]:
    """Return which of the tower's halves, `TABLES` and `DENSE`, learn in a mode, and whether the `DELTAS` do.

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
    if learning in ((TABLES,), (DENSE,)):
        _require_halves(inventory.under(TOWER).dense_parameters(), mode)
    _require_deltas_where_meant(module, mode)
    if not {TABLES, DENSE} <= set(learning):
        _require_freezable(tower)
    frozen = modules_frozen_in(module, mode)
    for path in _freezable(module):
        _set_frozen(module.get_submodule(path), path in frozen)
    for path, halves in _learners(module, learning):
        _ask_for_gradients(module.get_submodule(path), inventory.under(path).dense_parameters(), halves)
    module.train()
    for part in (TOWER, *_deltas(module)):
        _require_frozen_for_good(module.get_submodule(part), part)
    return frozen_parts(module)


def modules_frozen_in(ranker: nn.Module, mode: str) -> tuple[str, ...]:
    """Return the names of the modules that a mode freezes, whatever the modules' own flags say: parts or halves."""
    learning = learning_halves(mode)
    frozen = [] if OF_SEGMENTS in learning else list(_deltas(ranker))
    for path, halves in _learners(ranker, learning):
        if path.partition(".")[0] in frozen:
            continue
        if halves:
            frozen += [inner for inner, half in _halves(ranker.get_submodule(path), path) if half not in halves]
        else:
            frozen.append(path)
    return tuple(frozen)


def _deltas(ranker: nn.Module) -> tuple[str, ...]:
    """The names of the parts among `DELTAS` that a ranker has."""
    return tuple(name for name, _ in ranker.named_children() if name in DELTAS)


def _copies(ranker: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the path of every copy of the tower, and the halves of it that learn where segments do."""
    _, part = DELTAS
    if part in _deltas(ranker):
        for name, copy in ranker.get_submodule(part).named_children():
            learns: tuple[str, ...] = copy.learns  # type: ignore[assignment]
            yield f"{part}.{name}.tower", learns


def _learners(ranker: nn.Module, learning: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the tower, its copies and the adapters by path, each with its halves that learn."""
    has_deltas = OF_SEGMENTS in learning
    yield TOWER, () if has_deltas else learning
    for path, halves in _copies(ranker):
        yield path, halves if has_deltas else ()
    adapters, _ = DELTAS
    if adapters in _deltas(ranker):
        yield adapters, (DENSE,) if has_deltas else ()


def _freezable(ranker: nn.Module) -> Iterator[str]:
    """Yield the paths of all that one mode or another freezes: whole parts, and halves of the tower and its copies."""
    yield from _deltas(ranker)
    for path, _ in ((TOWER, ()), *_copies(ranker)):
        module = ranker.get_submodule(path)
        if hasattr(module, "is_frozen"):
            yield path
            yield from (inner for inner, _ in _halves(module, path))


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


def _require_deltas_where_meant(ranker: nn.Module, mode: str) -> None:
    deltas, learning = _deltas(ranker), learning_halves(mode)
    if OF_SEGMENTS in learning and not deltas:
        raise UsageError(
            f"Training mode `{mode}` is about what user segments learn, and no segment of this ranker learns anything "
            "of the tower. Give one a rung other than `frozen` in `training_mode.rungs`, or choose frozen_tower."
        )
    if deltas and learning and OF_SEGMENTS not in learning:
        raise UsageError(
            f"Training mode `{mode}` lets the tower learn, and this ranker has {' and '.join(deltas)} beside a tower "
            f"that stays frozen. Train it in {BY_SEGMENT}, after {FROZEN_TOWER} if you like."
        )


def _require_halves(dense: Mapping[str, nn.Parameter], mode: str) -> None:
    if not dense:
        raise UsageError(
            f"Training mode `{mode}` is about one half of the tower, and this tower has tables alone (imported vectors "
            f"have no layers above them). Choose {FROZEN_TOWER} or {END_TO_END}."
        )


def _require_frozen_for_good(part: nn.Module, name: str) -> None:
    """Raise if `ranker.train()`, which every loop calls, puts something frozen back into training mode."""
    for path, module in part.named_modules(prefix=name):
        if getattr(module, "is_frozen", False):
            thawed = [inner for inner, child in module.named_modules(prefix=path) if child.training]
            if thawed:
                raise TrainingError(
                    f"`{thawed[0]}` goes back to training mode with `ranker.train()`: its batch statistics would "
                    "change. The part's `train()` must leave it in evaluation mode while `is_frozen` is set."
                )
