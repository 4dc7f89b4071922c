"""What a run must keep to go on later as if it had never stopped, and how it is read and written back.

Tensors and plain facts are apart, so that whoever writes them needs neither to run code nor to know a ranker. With
several processes all of them call `state_dict` and `load_state_dict`; every process then holds the whole.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.sharding.processes import gathered
from recsys.sharding.state_copy import StateCopy
from recsys.sharding.whole_state import load_whole_state, whole_state
from recsys.training.optimizer import RankerOptimizers
from recsys.training.weight_average import WeightAverage


class Stream(Protocol):
    """A source of batches that knows its position; `state_dict` is plain JSON."""

    def state_dict(self) -> dict[str, Any]:
        """Return how far the stream was consumed."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken."""


@dataclass(frozen=True)
class Snapshot:
    """A run at one step.

    Attributes:
        tensors: `model/<name>`, `best/<name>`, `average/<name>`, `optimizer/<name>`, shaped as in the model, and
            `random/<rank>/<generator>`, (bytes,) or (words,); all on the CPU.
        facts: plain JSON: the loop's state, and for each process the stream's and Python's random state.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class BestWeights:
    """The weights of the best validation so far, in memory.

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

    @property
    def state(self) -> dict[str, Tensor]:
        """The kept weights on the CPU, tables as (rows, D), or {}; until the next are kept. Every process calls it."""
        return self._copy.whole()

    def keep(self) -> None:
        """Remember the weights as they are, in the memory of those before; every process calls it."""
        self._copy.take()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember a copy of what `state` returned, tables as (rows, D)."""
        self._copy.load(state)

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
    """Return everything that the run needs to go on from here."""
    tensors = {f"model/{name}": tensor for name, tensor in whole_state(ranker).items()}
    tensors |= {f"best/{name}": tensor.clone() for name, tensor in best.state.items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizers.state_dict().items()}
    processes = gathered({"stream": stream.state_dict(), "python_random": _python_random(), **_random_tensors()})
    for rank, process in enumerate(processes):
        for generator in ("torch", "numpy", "cuda"):
            tensors[f"random/{rank}/{generator}"] = process.pop(generator)
    return Snapshot(tensors, {"loop": dict(loop), "processes": processes})


def load_state_dict(
    snapshot: Snapshot,
    ranker: nn.Module,
    optimizers: RankerOptimizers,
    stream: Stream,
    best: BestWeights,
    average: WeightAverage | None = None,
) -> dict[str, Any]:
    """Put ranker, optimizers, stream, best weights, average and generators where they stood; return the loop's state.

    A process that the saved run had not (it had fewer) takes the last one's stream state, and random numbers of its
    own: such a run is the same experiment, and no longer the same bits.

    Raises:
        DataError: the snapshot is of another model, optimizer or data.
    """
    tensors, facts = snapshot.tensors, snapshot.facts
    load_whole_state(ranker, _under("model/", tensors))
    optimizers.load_state_dict(_under("optimizer/", tensors))
    best.load(_under("best/", tensors))
    if average is not None:
        average.load(_under("average/", tensors))
    rank = dist.get_rank() if dist.is_initialized() else 0
    try:
        processes, loop = facts["processes"], facts["loop"]
        stream.load_state_dict(processes[min(rank, len(processes) - 1)]["stream"])
        if rank < len(processes):
            _set_random(_under(f"random/{rank}/", tensors), processes[rank]["python_random"])
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"The saved run lacks {error}: it was written by another version. Start the run afresh."
        ) from error
    return dict(loop)


def _random_tensors() -> dict[str, Tensor]:
    name, keys, *_ = np.random.get_state(legacy=True)
    assert name == "MT19937"
    # Where no GPU computes, asking for its generator would claim some of its memory.
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else torch.empty(0, dtype=torch.uint8)
    return {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)), "cuda": cuda}


def _python_random() -> dict[str, Any]:
    _, _, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {"state": [version, list(words), gauss], "numpy": [int(position), int(has_gauss), float(cached)]}


def _set_random(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_initialized() and tensors["cuda"].numel():
        torch.cuda.set_rng_state(tensors["cuda"])
    position, has_gauss, cached = facts["numpy"]
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = facts["state"]
    random.setstate((version, tuple(words), gauss))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
