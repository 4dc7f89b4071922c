"""The trace of one forward and backward pass, module by module, that the flow audit reads.

Hooks note every call of every module: whether it ran with a graph, which tensors went in and came out, whether they
were finite, and which gradients came back. Kernels of sharded tables, which are no children of the ranker, are noted as
calls of their collection. From the graph that PyTorch keeps behind the outputs it is then read where it ends.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from recsys.sharding.inventory import FusedKernel, Inventory

OBJECTIVE = "the objective"
RANKER = "the ranker"


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        has_graph_mode: whether autograd was recording when the call began.
        started: position in the order of all beginnings.
        inputs: floating tensors that ask for a gradient; `outputs`: all floating tensors.
        given: those of the inputs that are not its own tables', looked up for it before it was called.
        ids: how many whole numbers went in, such as ids to look up.
        tables: of a kernel: the tables that at least one id looked up.
        is_finite, is_zero: whether all numbers that came out are.
    """

    module: str
    parent: "Call | None"
    has_graph_mode: bool
    started: int
    inputs: list[Tensor] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    ids: int = 0
    tables: frozenset[str] = frozenset()
    is_finite: bool = True
    is_zero: bool = False

    @property
    def name(self) -> str:
        """The module's name, as findings give it."""
        return self.module or RANKER

    @property
    def built_graph(self) -> bool:
        """Whether an output asks for a gradient."""
        return any(output.requires_grad for output in self.outputs)

    @cached_property
    def graph(self) -> set[Node]:
        """The graph behind the outputs; to be asked for when the call has ended."""
        return graph_behind(self.outputs)

    def ancestors(self) -> Iterator["Call"]:
        """The calls around this one, the innermost first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent


class Arrival(NamedTuple):
    """A gradient that reached a tensor in the backward pass."""

    tensor: Tensor
    is_finite: bool
    is_zero: bool


class Trace:
    """The calls of one forward pass and the gradients of the backward pass behind it.

    Make it after the gate of the tables, whose leaves are then seen as the kernels' outputs; close it at the end.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.calls: list[Call] = []  # by their ends: inner calls come before those around them
        self.arrivals: list[Arrival] = []  # by their time
        self._open: list[Call] = []
        self._clock = itertools.count()
        self._watched: dict[int, Tensor] = {}  # held, so that no id is given out twice
        self._hooks: list[Any] = []
        for name, module in inventory.module.named_modules():
            self._hooks.append(module.register_forward_pre_hook(partial(self._begin, name), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(partial(self._end, name), with_kwargs=True))
        for kernel in inventory.fused:
            hook = kernel.module.register_forward_hook(partial(self._looked_up, kernel), with_kwargs=True)
            self._hooks.append(hook)

    def close(self) -> None:
        """Take every hook away."""
        for hook in self._hooks:
            hook.remove()

    def outputs_of(self, module: str) -> list[Tensor]:
        """Return what all calls of a module returned, tensors of any shape."""
        return [output for call in self.calls if call.module == module for output in call.outputs]

    def first_bad(self, is_bad: Callable[[Arrival], bool], sources: set[Node] | None = None) -> str | None:
        """Name the module whose backward made the first bad gradient, or None where every gradient is good.

        It is the innermost module that was given the tensor with that gradient; where none was, the arithmetic around
        the module that returned the tensor.

        Args:
            sources: look only at gradients on their way there.
        """
        for arrival in self.arrivals:
            if not is_bad(arrival) or (sources is not None and sources.isdisjoint(graph_behind([arrival.tensor]))):
                continue
            users = [call for call in self.calls if any(each is arrival.tensor for each in call.inputs)]
            if users:
                return innermost(users)[0].name
            makers = [call for call in self.calls if any(each is arrival.tensor for each in call.outputs)]
            outermost = min(makers, key=lambda call: call.started)
            return OBJECTIVE if outermost.parent is None else outermost.parent.name
        return None

    def source_of_zeros(self, module: str) -> str | None:
        """Name the module that returned nothing but zeros and handed them to `module`; None where none did."""
        given = [tensor for call in self.calls if call.module == module for tensor in call.inputs]
        makers = [call for call in self.calls if call.is_zero and call.module != module]
        return next((call.name for call in makers if any(o is tensor for o in call.outputs for tensor in given)), None)

    def _begin(self, name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        tensors = [*tensors_in(arguments), *tensors_in(keywords)]
        call = self._call(name)
        call.inputs = [tensor for tensor in tensors if tensor.requires_grad]
        call.ids = sum(tensor.numel() for tensor in tensors[:1] if not tensor.is_floating_point())
        self._adopt_look_ups(call)
        self._open.append(call)

    def _end(self, name: str, module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        self._keep(self._open.pop(), output)

    def _looked_up(self, kernel: FusedKernel, module: Any, arguments: Any, keywords: Any, output: Any) -> None:
        call = self._call(collection_of(kernel.tables[0]))
        call.tables = _looked_up_tables(kernel, keywords["offsets"])
        self._keep(call, output)

    def _adopt_look_ups(self, call: Call) -> None:
        """Count the look-ups of a part's tables, made for it before it is called, as made within its call."""
        part = f"{call.module}."
        around = list(call.ancestors())
        for earlier in self.calls:
            outer = earlier.parent
            # One whose caller lies in the part was made within the part already.
            if outer in around and earlier.module.startswith(part) and not outer.module.startswith(part[:-1]):
                earlier.parent = call
        made = nodes(output for each in self.calls if call in each.ancestors() for output in each.outputs)
        call.given = [each for each in call.inputs if made.isdisjoint(graph_behind([each]))]

    def _call(self, name: str) -> Call:
        return Call(name, self._open[-1] if self._open else None, torch.is_grad_enabled(), next(self._clock))

    def _keep(self, call: Call, output: Any) -> None:
        call.outputs = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
        call.is_finite = all(bool(each.isfinite().all()) for each in call.outputs)
        numbers = [each for each in call.outputs if each.numel()]
        call.is_zero = bool(numbers) and not any(bool(each.any()) for each in numbers)
        self.calls.append(call)
        for tensor in (*call.inputs, *call.outputs):
            if tensor.requires_grad and id(tensor) not in self._watched:
                self._watched[id(tensor)] = tensor
                self._hooks.append(tensor.register_hook(partial(self._arrive, tensor)))

    def _arrive(self, tensor: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:  # of several that one operation gave, none but others got one
            return
        is_zero = gradient.numel() > 0 and not bool(gradient.any())
        self.arrivals.append(Arrival(tensor, bool(gradient.isfinite().all()), is_zero))


def nodes(tensors: Iterable[Tensor]) -> set[Node]:
    """Return the nodes of the graph that made some tensors, of any shape; none for one without a graph."""
    return {get_gradient_edge(tensor).node for tensor in tensors if tensor.requires_grad}


def innermost(calls: Sequence[Call]) -> list[Call]:
    """Return those of the calls within which none of the others lies."""
    around = {id(outer) for call in calls for outer in call.ancestors()}
    return [call for call in calls if id(call) not in around]


def graph_behind(tensors: Iterable[Tensor], *, without: set[Node] | None = None) -> set[Node]:
    """Return every node of the graph behind some tensors, of any shape; the walk does not enter those of `without`."""
    seen: set[Node] = set(without or ())
    waiting = list(nodes(tensors))
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions if following is not None)
    return seen - (without or set())


def collection_of(table: str) -> str:
    """Return the name of the collection of tables that a table belongs to."""
    return table.partition(".embedding_bags.")[0]


@contextmanager
def leaving_no_trace(inventory: Inventory) -> Iterator[None]:
    """Give back every buffer, gradient, training flag, forward counter of a kernel and random state as it was.

    Inside, every gradient is None. Weights are the caller's to leave alone.
    """
    ranker = inventory.module
    buffers = [(buffer, buffer.clone()) for buffer in inventory.dense_buffers().values()]
    gradients = [(parameter, parameter.grad) for parameter in ranker.parameters()]
    modes = [(module, module.training) for module in ranker.modules()]
    kernels = [kernel.module for kernel in inventory.fused]
    counts = [(kernel, name, getattr(kernel, name).clone()) for kernel in kernels for name in ("iter", "iter_cpu")]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            forget_gradients(ranker)
            yield
    finally:
        with torch.no_grad():
            for tensor, kept in buffers:
                tensor.copy_(kept)
            for kernel, name, count in counts:
                getattr(kernel, name).copy_(count)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def forget_gradients(ranker: nn.Module) -> None:
    """Set every gradient to None."""
    for parameter in ranker.parameters():
        parameter.grad = None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors, of any shape, in tuples, lists and mappings; what holds them otherwise is not looked into."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)


def _looked_up_tables(kernel: FusedKernel, offsets: Tensor) -> frozenset[str]:
    table_of_feature = kernel.module.feature_table_map
    # (T * B + 1,) offsets, feature by feature: every B-th one is where a feature begins.
    ids = offsets.cpu()[:: (len(offsets) - 1) // len(table_of_feature)].diff().tolist()
    pairs = zip(table_of_feature, ids, strict=True)
    return frozenset(kernel.tables[table] for table, count in pairs if count)
