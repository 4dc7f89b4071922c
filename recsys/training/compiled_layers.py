"""Compiling what of a ranker is nothing but arithmetic: the crossing, the deep layers above it, and the head's.

They are compiled in place (`Module.compile`): names, weights, optimizers and what is saved or served are as before. The
tables, the routing by segment and the tower are left alone. Numbers may differ from uncompiled ones in their last
digits, as sums are taken in another order.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch._functorch import config as functorch_config

from recsys.errors import UsageError
from recsys.sharding.inventory import unwrapped

_LAYERS = ("interaction_network.crossing", "interaction_network.deep", "head.hidden")
_COMPILERS = ("g++", "clang++")
_INDUCTOR = "inductor"  # torch's backend that makes kernels

Backend = Callable[[fx.GraphModule, list[torch.Tensor]], Any]
"""Makes a callable of a traced graph and the inputs that it was traced with, as `torch.compile` asks of it."""


def require_compiler() -> None:
    """Refuse a machine without a C++ compiler, which compiled layers are made with on CPUs and GPUs alike.

    Raises:
        UsageError: says what to install.
    """
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise UsageError(
            f"`training.compile` needs a C++ compiler, and none of {', '.join(wanted)} is on the path. Install one (on "
            "Debian and Ubuntu: apt-get install g++), name yours in CXX, or set training.compile=false."
        )


class CompiledLayers:
    """Compiles a ranker's layers, each when it is first called, and counts.

    One graph a layer serves batches of every size above one; training and evaluation have one each.

    Args:
        ranker: plain, or as `wrap_ranker` returned it, its gradient flow audited: the audit looks into the layers.
        backend: that of torch, unless a test has one that compiles nothing.

    Attributes:
        graphs: how many were compiled. Twice the layers are usual; with every further batch size or mode that needs
            graphs of its own, the run stood still meanwhile.

    Raises:
        UsageError: torch's own backend finds no compiler.
    """

    def __init__(self, ranker: nn.Module, backend: str | Backend = _INDUCTOR) -> None:
        if backend == _INDUCTOR:
            require_compiler()
        self.graphs = 0
        # Torch keeps few graphs for each piece of code, whatever module they are of: an earlier run's would count.
        torch._dynamo.reset()
        # The view of the tower's gradient by segment goes back through a step's graph once more, so no backward pass
        # may write over what the graph keeps. Each of them asks for this, and so it is set for the process.
        functorch_config.donated_buffer = False
        self._backend: Backend = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
        for path in _LAYERS:
            # Of any number of rows from the start: the last batch of an epoch, a validation and a segment's rows are
            # of other sizes, and each would be compiled for anew.
            unwrapped(ranker).get_submodule(path).compile(backend=self._compile, dynamic=True)

    def _compile(self, graph: fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.graphs += 1
        return self._backend(graph, inputs)
