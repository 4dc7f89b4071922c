"""The faults that the flow audit looks for in one pass, and the place that it names for each.

A place is the module in whose forward or backward the fault lies, as far as hooks and graph can tell: a cut between two
calls lies in the module around both.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from recsys.monitoring.gradient_flow_trace import OBJECTIVE, Call, Trace, collection_of, graph_behind, innermost, nodes
from recsys.sharding.inventory import Inventory


class FlowFault(StrEnum):
    """What can be wrong with a gradient."""

    DEAD = "dead"
    BLOCKED = "blocked"
    LEAKING = "leaking"
    ZERO = "zero"
    NON_FINITE = "non-finite"


class Severity(StrEnum):
    """Whether a finding fails the audit."""

    ERROR = "error"
    NOTE = "note"


@dataclass(frozen=True)
class FlowFinding:
    """One fault at one place.

    Attributes:
        place: name of a module, of a parameter that nothing uses, or "the objective".
        reasons: what was seen there.
        segments: whose rows showed it; empty where no row was needed.
        parameters: whose gradient it concerns.
    """

    kind: FlowFault
    place: str
    reasons: tuple[str, ...]
    segments: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        concerned = f" Concerns {_listed(self.parameters)}." if self.parameters else ""
        rows = f" Seen with rows of: {', '.join(self.segments)}." if self.segments else ""
        return f"{self.kind} at `{self.place}`: {'; '.join(self.reasons[:3])}.{concerned}{rows}"


@dataclass(frozen=True)
class Probe:
    """Some rows of one segment, and what their loss must reach.

    Attributes:
        batch: what the objective takes; only rows of this segment.
        reaches: names of the modules that the rows' loss must reach, and nothing beside them.
        only_through: part -> the module through which alone its gradient may come.
        without_gradient: the modules that use something they are given without its gradient, on purpose.
        is_made_up: whether the rows are of other segments and were only given this one's number.
    """

    segment: str
    batch: Any
    reaches: frozenset[str]
    only_through: tuple[tuple[str, str], ...] = ()
    without_gradient: frozenset[str] = frozenset()
    is_made_up: bool = False


@dataclass(frozen=True)
class Gradient:
    """What came back to one parameter, or to one table as far as this process holds it.

    Attributes:
        module: the module that uses it; of a sharded table: its collection.
        sources: where the graph of its numbers begins.
        squared_norm: None where no gradient came.
        is_asked_for: whether autograd is to give it one.
        is_used: of a table: whether an id looked it up, or nothing tried to; True for other parameters.
    """

    name: str
    module: str
    sources: set[Node]
    squared_norm: float | None
    is_asked_for: bool
    is_table: bool
    is_used: bool


@dataclass(frozen=True)
class Pass:
    """One probe's forward and backward pass."""

    probe: Probe
    frozen: Collection[str]
    trace: Trace
    loss: Tensor
    gradients: Sequence[Gradient]

    def due(self) -> list[Gradient]:
        """The gradients that this segment's rows must bring."""
        return [
            gradient
            for gradient in self.gradients
            if lies_in(gradient.name, self.probe.reaches) and not lies_in(gradient.name, self.frozen)
        ]

    def zeros(self) -> list[Gradient]:
        """Gradients that are due and came, all zeros. Rows of tables that were not looked up do not count."""
        return [gradient for gradient in self.due() if gradient.is_used and gradient.squared_norm == 0]

    def non_finite_forward(self) -> str | None:
        """Name the first module whose output is not finite; the objective where it alone is not; else None."""
        first = next((call.name for call in self.trace.calls if not call.is_finite), None)
        return first or (None if self.loss.isfinite() else OBJECTIVE)

    def finding(
        self, kind: FlowFault, place: str, reason: str, *gradients: Gradient, severity: Severity = Severity.ERROR
    ) -> FlowFinding:
        """Return a finding of this pass."""
        names = tuple(gradient.name for gradient in gradients)
        return FlowFinding(kind, place, (reason,), (self.probe.segment,), names, severity)


def lies_in(name: str, modules: Collection[str]) -> bool:
    """Whether a parameter or module is one of `modules` or within one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def dead_and_blocked(done: Pass) -> Iterator[FlowFinding]:
    """Find what gets no gradient though one is due, and what cuts a graph although a way round it is left."""
    for gradient in done.due():
        if gradient.squared_norm is None:
            yield done.finding(*_why_unreached(done.trace, gradient), gradient)
    cutting = [call for call in _cutting(done) if call.module not in done.probe.without_gradient]
    tables = [gradient for gradient in done.zeros() if gradient.is_table]
    for call in innermost(cutting):
        reason = f"`{call.name}` is given something that learns, and its output does not depend on it"
        before = graph_behind(call.given)
        # Tables of one kernel share one output: where one's columns are cut off, they get zeros and not nothing.
        starved = [table for table in tables if not table.sources.isdisjoint(before)]
        yield done.finding(FlowFault.BLOCKED, _recording(call), reason, *starved)


def leaking(done: Pass) -> Iterator[FlowFinding]:
    """Find gradients that reach what is frozen, another segment's own, or a part by a way that it should not come."""
    for part in done.frozen:
        # A graph that came in with an input may go through: that of tables that learn, through frozen layers.
        inside = [call for call in done.trace.calls if lies_in(call.module, [part])]
        graphs = [call for call in inside if call.built_graph and not call.given]
        place = min(graphs, key=lambda call: (len(list(call.ancestors())), call.started)).name if graphs else part
        touched = [g for g in done.gradients if lies_in(g.name, [part]) and g.squared_norm is not None]
        if graphs or touched:
            reason = f"`{part}` is frozen, and {'a gradient reaches it' if touched else 'its forward builds a graph'}"
            yield done.finding(FlowFault.LEAKING, place, reason, *touched)
    for gradient in done.gradients:
        is_elsewhere = not lies_in(gradient.name, done.probe.reaches) and not lies_in(gradient.name, done.frozen)
        # No process may skip a sharded table: rows that pass elsewhere bring it zeros, which change no row.
        came = gradient.squared_norm if gradient.is_table else gradient.squared_norm is not None
        if is_elsewhere and came:
            zero = ", of zeros, by which momentum and decay still change it" if not gradient.squared_norm else ""
            reason = f"rows of this segment do not pass it, and their gradient reaches it{zero}"
            yield done.finding(FlowFault.LEAKING, _apart(gradient.module, done.probe.reaches), reason, gradient)
    cutting = {call.module for call in _cutting(done)}
    for call in done.trace.calls:
        if call.module in done.probe.without_gradient and call.given and call.module not in cutting:
            reason = "it uses an input without its gradient, as the composition says, and all of them get one"
            yield done.finding(FlowFault.LEAKING, call.name, reason)
    for part, way in done.probe.only_through:
        if not lies_in(part, done.frozen) and _comes_past(done, part, way):
            reason = f"its gradient comes past `{way}`, through which alone it should"
            yield done.finding(FlowFault.LEAKING, part, reason)


def zero(first: Pass, again: Pass, explained: Collection[str]) -> Iterator[FlowFinding]:
    """Find gradients that are all zeros: errors where other weights near by give zeros too, else notes.

    A zero that other weights do not have is that of a factor which starts at zero, or of errors that cancel: it learns
    from the second step on. One that stays is a product with zero, or a layer whose every ReLU is closed on all rows.

    Args:
        again: the same probe with other weights.
        explained: names of parameters whose zeros another finding accounts for.
    """
    still = {gradient.name: gradient for gradient in again.zeros()}
    for gradient in first.zeros():
        if gradient.name in explained:
            continue
        if (closed := still.get(gradient.name)) is None:
            reason = "the gradient is zero at these weights, and not at others near by"
            yield first.finding(FlowFault.ZERO, gradient.module, reason, gradient, severity=Severity.NOTE)
        else:
            place = again.trace.first_bad(lambda arrival: arrival.is_zero, closed.sources)
            place = place or again.trace.source_of_zeros(gradient.module) or gradient.module
            reason = "a gradient comes and is all zeros from here on, with other weights too"
            yield first.finding(FlowFault.ZERO, place, reason, gradient)


def non_finite(done: Pass, *, is_forward_finite: bool) -> Iterator[FlowFinding]:
    """Find the first module whose output is not finite or, where all are, the first whose gradient is not.

    Args:
        is_forward_finite: in every process; what comes back from another one's NaN is no fault of this one's.
    """
    first = done.non_finite_forward()
    if first is not None:
        yield done.finding(FlowFault.NON_FINITE, first, "the first output of the forward pass that is not finite")
    elif is_forward_finite:
        bad = [g for g in done.gradients if g.squared_norm is not None and not g.squared_norm < float("inf")]
        place = done.trace.first_bad(lambda arrival: not arrival.is_finite) or (bad[0].module if bad else None)
        if place is not None:
            reason = "the forward pass is finite, and its backward gives the first gradient that is not"
            yield done.finding(FlowFault.NON_FINITE, place, reason, *bad)


def non_finite_weights(inventory: Inventory) -> Iterator[FlowFinding]:
    """Find parameters, and tables as far as this process holds them, that are not finite, looked up or not."""
    tensors = [(name, 0, parameter.detach()) for name, parameter in inventory.dense_parameters().items()]
    tensors += [(shard.table, shard.rows.start, shard.weight) for shard in inventory.shards()]
    for name, first_row, tensor in tensors:
        if not torch.linalg.vector_norm(tensor, ord=float("inf")).isfinite():
            row, *_ = (~tensor.isfinite()).nonzero()[0].tolist() or [0]
            reason = f"`{name}` holds numbers that are not finite, first in row {first_row + row}"
            yield FlowFinding(FlowFault.NON_FINITE, _owner(inventory.module, name), (reason,), (), (name,))


def training_where_frozen(ranker: nn.Module, frozen: Collection[str]) -> Iterator[FlowFinding]:
    """Find frozen parts that `train()` puts into training mode: statistics and dropout need no gradient to change."""
    for part in frozen:
        module = dict(ranker.named_modules()).get(part)
        if module is not None and module.training:
            reason = f"`{part}` is frozen, and `train()` puts it into training mode: it does not know that it is frozen"
            yield FlowFinding(FlowFault.LEAKING, part, (reason,))


def _owner(ranker: nn.Module, name: str) -> str:
    """Return the module that findings name: of a sharded table its collection, else the parameter's own module."""
    module = name.rpartition(".")[0]
    is_called = isinstance(ranker.get_submodule(module), nn.EmbeddingBag) or ".embedding_bags." not in name
    return module if is_called else collection_of(name)


def _cutting(done: Pass) -> list[Call]:
    """Return the calls that were given something that learns, and whose output does not depend on it."""
    return [call for call in done.trace.calls if call.outputs and not nodes(call.given) <= call.graph]


def _why_unreached(trace: Trace, gradient: Gradient) -> tuple[FlowFault, str, str]:
    """Return the fault, its place and what was seen there."""
    if not gradient.is_asked_for:
        return FlowFault.DEAD, gradient.name, "its part learns, and it asks for no gradient (`requires_grad` is off)"
    part = gradient.name.partition(".")[0]
    if "." in gradient.name and not any(call.module == part for call in trace.calls):
        return FlowFault.DEAD, gradient.name, f"`{part}` is never called"
    carriers = [call for call in trace.calls if not gradient.sources.isdisjoint(call.graph)]
    if carriers:
        return FlowFault.BLOCKED, *_end_of_graph(trace, gradient.sources, carriers)
    owners = [call for call in trace.calls if call.module == gradient.module and call.outputs]
    if not owners:
        if any(call.module == gradient.module for call in trace.calls):
            return FlowFault.DEAD, gradient.name, f"nothing that `{gradient.module}` returns depends on it"
        return FlowFault.DEAD, gradient.name, f"`{gradient.module}` is never called"
    call = owners[0]
    if not call.has_graph_mode:
        outermost = [each for each in (call, *call.ancestors()) if not each.has_graph_mode][-1]
        reason = f"`{outermost.name}` runs without a graph in there (no_grad, or a part that takes itself for frozen)"
        return FlowFault.BLOCKED, _recording(call), reason
    if not call.built_graph:
        return FlowFault.BLOCKED, call.name, "its output has no graph, although it has parameters that learn"
    return FlowFault.DEAD, gradient.name, f"`{call.name}` does not use it, or uses a detached copy of it"


def _end_of_graph(trace: Trace, sources: set[Node], carriers: list[Call]) -> tuple[str, str]:
    """Return the module in whose forward the graph ends, and the module after which it does."""
    carrying = {id(call) for call in carriers}
    entered = [
        call
        for call in trace.calls
        if id(call) not in carrying and call.outputs and not sources.isdisjoint(graph_behind(call.inputs))
    ]
    last = carriers[-1]
    if entered:
        place = _recording(innermost(entered)[0])
    else:
        place = next((call.name for call in last.ancestors() if id(call) not in carrying), OBJECTIVE)
    return place, f"the graph ends there, after `{last.name}` (a stray detach, item or no_grad)"


def _recording(call: Call) -> str:
    """Name the call, or the innermost one around it that ran with a graph: no_grad was entered in there."""
    return next((each.name for each in (call, *call.ancestors()) if each.has_graph_mode), OBJECTIVE)


def _comes_past(done: Pass, part: str, way: str) -> bool:
    """Whether the part's output is in the loss's graph by a way that avoids the module `way`."""
    ends, allowed = (nodes(done.trace.outputs_of(module)) for module in (part, way))
    return not ends.isdisjoint(graph_behind([done.loss], without=allowed))


def _apart(module: str, reached: Collection[str]) -> str:
    """Return the outermost module around `module`, itself included, that holds nothing of what is reached."""
    steps = module.split(".")
    around = (".".join(steps[: depth + 1]) for depth in range(len(steps)))
    return next((each for each in around if not any(lies_in(name, [each]) for name in reached)), module)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
