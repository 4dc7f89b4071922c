"""What a run must keep to go on later as if it had never stopped, and how it is read and written back.

Tensors and plain facts are apart, so that whoever writes them needs neither to run code nor to know a ranker. With
several processes each has a snapshot of what it holds: no process puts a table together, neither here nor on the way
back, which may be into another number of processes.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.sharding.divided_state import DividedState, DividedTensor, Piece, divided_state, undivided
from recsys.sharding.inventory import inventory_of
from recsys.sharding.state_copy import StateCopy
from recsys.sharding.whole_state import require_fitting
from recsys.training.host_copy import HostCopy
from recsys.training.optimizer import RankerOptimizers
from recsys.training.weight_average import WeightAverage

_T = TypeVar("_T")


class Stream(Protocol):
    """A source of batches that knows its position; `state_dict` is plain JSON."""

    def state_dict(self) -> dict[str, Any]:
        """Return how far the stream was consumed."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken."""


@dataclass(frozen=True)
class Snapshot:
    """What one process holds of a run at one step.

    Attributes:
        tensors: `model/<name>`, `best/<name>`, `average/<name>`, `optimizer/<name>`, shaped as in the model, and
            `random/<rank>/<generator>`, (bytes,) or (words,); copies on the CPU, which no later step changes.
        loop: plain JSON: the loop's state, the same in every process.
        process: plain JSON: the stream's and Python's random state of this process.
    """

    tensors: DividedState
    loop: dict[str, Any]
    process: dict[str, Any]


class SavedRun(Protocol):
    """Snapshots of all processes of a run, as they were kept."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of all whole tensors, by the names of `Snapshot.tensors`."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain JSON, in which `loop` is as in `Snapshot`."""

    @property
    def process(self) -> Mapping[str, Any]:
        """As in `Snapshot`, of the process of this rank, or of the last one where the saved run had fewer."""

    def read(self, into: DividedState) -> None:
        """Fill the pieces of tensors that were saved, shaped as they were; every process calls it."""


class BestWeights:
    """The weights of the best validation so far, in memory: of each table what this process holds.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> best = BestWeights(layer)
    >>> kept = layer.weight.item()
    >>> best.keep()
    >>> _ = layer.weight.data.add_(1.0)
    >>> best.restore()
    >>> layer.weight.item() == kept
    True
    """

    def __init__(self, ranker: nn.Module) -> None:
        self._copy = StateCopy(ranker)

    def parts(self) -> dict[str, DividedTensor]:
        """Return what this process holds of the kept weights, tables as (rows, D), or {}; the next ones change it."""
        return self._copy.parts()

    def keep(self) -> None:
        """Remember the weights as they are, in the memory of those before; every process calls it."""
        self._copy.take()

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, DividedTensor]:
        """Return `parts` for the caller to fill with what was saved of others, shaped as `shapes`, by name, says."""
        return self._copy.room(shapes)

    def restore(self) -> None:
        """Put the remembered weights back, or leave all as it is where none were kept."""
        self._copy.put_back()


def state_dict(
    ranker: nn.Module,
    optimizers: RankerOptimizers,
    stream: Stream,
    best: BestWeights,
    loop: Mapping[str, Any],
    average: WeightAverage | None = None,
) -> Snapshot:
    """Return everything that this process needs to go on from here."""
    held = {
        **_prefixed("model/", divided_state(ranker)),
        **_prefixed("best/", best.parts()),
        **_prefixed("average/", {} if average is None else average.parts()),
        **_prefixed("optimizer/", optimizers.parts()),
        **_prefixed(f"random/{_rank()}/", undivided(_random_tensors())),
    }
    process = {"stream": stream.state_dict(), "python_random": _python_random()}
    return Snapshot(_on_host(held), dict(loop), process)


def load_state_dict(
    saved: SavedRun,
    ranker: nn.Module,
    optimizers: RankerOptimizers,
    stream: Stream,
    best: BestWeights,
    average: WeightAverage | None = None,
) -> dict[str, Any]:
    """Put ranker, optimizers, stream, best weights, average and generators where they stood; return the loop's state.

    Every process calls it. One that the saved run had not (it had fewer) takes the last one's stream state, and random
    numbers of its own: such a run is the same experiment, and no longer the same bits.

    Raises:
        DataError: the saved run is of another model, optimizer or data; its weights are not loaded then.
    """
    inventory, generators = inventory_of(ranker), _random_tensors()
    own = {name: each for name, each in generators.items() if f"random/{_rank()}/{name}" in saved.shapes}
    require_fitting(inventory, _under("model/", saved.shapes))
    with inventory.writing():
        saved.read(
            {
                **_prefixed("model/", divided_state(inventory)),
                **_prefixed("best/", best.room(_under("best/", saved.shapes))),
                **_prefixed("average/", {} if average is None else average.room(_under("average/", saved.shapes))),
                **_prefixed("optimizer/", optimizers.room(_under("optimizer/", saved.shapes))),
                **_prefixed(f"random/{_rank()}/", undivided(own)),
            }
        )
    try:
        loop = dict(saved.facts["loop"])
        stream.load_state_dict(saved.process["stream"])
        if own:
            _set_random(own, saved.process["python_random"])
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"The saved run lacks {error}: it was written by another version. Start the run afresh."
        ) from error
    return loop


def _on_host(state: DividedState) -> dict[str, DividedTensor]:
    """Copies of all pieces, for which the device is waited once."""
    copies = iter(HostCopy([piece.tensor for each in state.values() for piece in each.pieces]).arrived())

    def copied(piece: Piece) -> Piece:
        copy = next(copies)
        assert copy is not None
        return replace(piece, tensor=copy)

    return {name: replace(each, pieces=tuple(map(copied, each.pieces))) for name, each in state.items()}


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _random_tensors() -> dict[str, Tensor]:
    name, keys, *_ = np.random.get_state(legacy=True)
    assert name == "MT19937"
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    # Where no GPU computes, asking for its generator would claim some of its memory.
    return tensors | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def _python_random() -> dict[str, Any]:
    _, _, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {"state": [version, list(words), gauss], "numpy": [int(position), int(has_gauss), float(cached)]}


def _set_random(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
    position, has_gauss, cached = facts["numpy"]
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = facts["state"]
    random.setstate((version, tuple(words), gauss))


def _prefixed(prefix: str, named: Mapping[str, _T]) -> dict[str, _T]:
    return {f"{prefix}{name}": each for name, each in named.items()}


def _under(prefix: str, named: Mapping[str, _T]) -> dict[str, _T]:
    return {name.removeprefix(prefix): each for name, each in named.items() if name.startswith(prefix)}
