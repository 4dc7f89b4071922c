"""The flow audit: does the loss of every segment's rows reach every part that it should, and no other?

One small batch per segment is passed forward and backward through the ranker as it is. Found and named are

- dead: a parameter or table that should get a gradient and gets none;
- blocked: a graph that ends early, by a stray `detach()` or `no_grad`, with the module in whose forward it does;
- leaking: a gradient into a frozen part, or into what belongs to another segment;
- zero: a gradient that comes and is zero in every number, and would be with other weights too;
- non-finite: the first module, forward or else backward, that gives NaN or an infinite number.

A detach that leaves another path open around it within one module's own arithmetic is not seen. The audit leaves the
ranker, its optimizers and the random state bit for bit as they were.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.monitoring.gradient_flow_faults import (
    FlowFinding,
    Gradient,
    Pass,
    Probe,
    Severity,
    dead_and_blocked,
    leaking,
    lies_in,
    non_finite,
    non_finite_weights,
    training_where_frozen,
    zero,
)
from recsys.monitoring.gradient_flow_trace import Trace, collection_of, forget_gradients, leaving_no_trace, nodes
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.processes import gathered

# Far enough from a factor that starts at zero to see a gradient in single precision, near enough to be the same model.
_NUDGE = 1e-3


@dataclass(frozen=True)
class FlowCell:
    """What one segment's rows brought to one module.

    Attributes:
        expected: "learns", "frozen", or "elsewhere" where the segment's rows do not pass it.
        norm: L2 norm of its gradient, as far as this process holds it; None where none came.
    """

    segment: str
    module: str
    expected: str
    norm: float | None


@dataclass(frozen=True)
class FlowReport:
    """What the audit saw.

    Attributes:
        made_up: segments without rows of their own in a process's probes.
    """

    cells: tuple[FlowCell, ...]
    findings: tuple[FlowFinding, ...]
    made_up: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found but notes."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)

    def require_clean(self) -> None:
        """Do nothing where the gradients flow as they should.

        Raises:
            TrainingError: they do not; names every place.
        """
        errors = [str(finding) for finding in self.findings if finding.severity is Severity.ERROR]
        if errors:
            raise TrainingError(
                "Gradients do not flow as the composition and the training mode say; found before the first step:\n  "
                + "\n  ".join(errors)
                + "\nMend the modules named above; `recsys audit` with the same overrides shows the whole table."
            )

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"is_clean": self.is_clean, **asdict(self)}


def audit_flow(
    ranker: nn.Module,
    objective: Callable[[nn.Module, Any], Tensor],
    probes: Sequence[Probe],
    *,
    frozen: Collection[str],
) -> FlowReport:
    """Pass every probe forward and backward, compare with what it must reach, and leave no trace.

    With several processes every one calls it, with as many probes in the same order, and receives all findings.

    Args:
        ranker: plain or wrapped.
        objective: takes the unwrapped ranker and a probe's batch, returns the scalar loss.
        frozen: names of the modules that the training mode freezes, whatever their own flags say.
    """
    inventory = inventory_of(ranker)
    module = inventory.module
    findings: list[FlowFinding] = []
    cells: list[FlowCell] = []
    rows = _rows(inventory, probes)
    with leaving_no_trace(inventory), torch.enable_grad():
        _train_without_dropout(module)
        findings += [*non_finite_weights(inventory), *training_where_frozen(module, frozen)]
        for probe in probes:
            with _passed(inventory, objective, probe, frozen) as done:
                has_zeros, is_bad = zip(*_everywhere([(bool(done.zeros()), done.non_finite_forward())]), strict=True)
                blocked = list(dead_and_blocked(done))
                findings += [*blocked, *leaking(done)]
                findings += non_finite(done, is_forward_finite=not any(is_bad))
                cells += [_cell(done, row) for row in rows]
                if any(has_zeros):
                    with _nudged(inventory), _passed(inventory, objective, probe, frozen) as again:
                        findings += zero(done, again, [name for each in blocked for name in each.parameters])
    made_up = dict.fromkeys(_everywhere([probe.segment for probe in probes if probe.is_made_up]))
    return FlowReport(tuple(cells), _merged(_everywhere(findings)), tuple(made_up))


@contextmanager
def _passed(
    inventory: Inventory, objective: Callable[[nn.Module, Any], Tensor], probe: Probe, frozen: Collection[str]
) -> Iterator[Pass]:
    """Pass a probe forward and backward; no table steps, and afterwards no gradient is left."""
    module = inventory.module
    gate = TableGate(inventory)  # before the trace: its leaves are then seen as the kernels' outputs
    trace = Trace(inventory)
    try:
        loss = objective(module, probe.batch)
        if loss.requires_grad:
            loss.backward()
        yield Pass(probe, frozen, trace, loss, _gradients(inventory, gate, trace))
    finally:
        trace.close()
        gate.close()
        forget_gradients(module)


def _gradients(inventory: Inventory, gate: TableGate, trace: Trace) -> list[Gradient]:
    """Return what came to every parameter and table that this process holds."""
    sharded = {table for kernel in inventory.fused for table in kernel.tables}
    modules = dict(inventory.module.named_modules())
    found = [_of_parameter(trace, name, each) for name, each in inventory.dense_parameters().items() if each.numel()]
    for table in inventory.tables:
        owner, _, attribute = table.rpartition(".")
        # A table that another process holds is neither of the two.
        if table not in sharded and isinstance(modules.get(owner), nn.EmbeddingBag):
            found.append(_of_parameter(trace, table, getattr(modules[owner], attribute), is_table=True))
    squares = gate.squared_norms() if sharded else {}
    for table in sorted(sharded):
        collection = collection_of(table)
        calls = [call for call in trace.calls if call.module == collection and call.outputs]
        found.append(
            Gradient(
                name=table,
                module=collection,
                sources=nodes(output for call in calls if call.tables for output in call.outputs),
                squared_norm=squares[table].item() if table in squares else None,
                is_asked_for=True,
                is_table=True,
                is_used=not calls or any(table in call.tables for call in calls),
            )
        )
    return found


def _of_parameter(trace: Trace, name: str, parameter: nn.Parameter, *, is_table: bool = False) -> Gradient:
    owner = name.rpartition(".")[0]
    norm = None
    if parameter.grad is not None:
        norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float64).square().item()
    lookups = [call.ids for call in trace.calls if call.module == owner]
    return Gradient(
        name=name,
        module=owner,
        sources=nodes([parameter]),
        squared_norm=norm,
        is_asked_for=parameter.requires_grad,
        is_table=is_table,
        is_used=not is_table or not lookups or any(lookups),
    )


def _train_without_dropout(module: nn.Module) -> None:
    """Set training mode, but for dropout: on a few rows it would make zeros that come and go."""
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd):
            child.eval()


def _rows(inventory: Inventory, probes: Sequence[Probe]) -> list[str]:
    """Return the modules that any probe must reach and that have parameters, in the ranker's order."""
    reached = {name for probe in probes for name in probe.reaches}
    parameters = [*inventory.dense_parameters(), *inventory.tables]
    return [
        name
        for name, _ in inventory.module.named_modules()
        if name in reached and any(lies_in(parameter, [name]) for parameter in parameters)
    ]


def _cell(done: Pass, row: str) -> FlowCell:
    squares = [
        gradient.squared_norm
        for gradient in done.gradients
        if lies_in(gradient.name, [row]) and gradient.squared_norm is not None
    ]
    expected = "learns" if lies_in(row, done.probe.reaches) else "elsewhere"
    expected = "frozen" if lies_in(row, done.frozen) else expected
    return FlowCell(done.probe.segment, row, expected, sum(squares) ** 0.5 if squares else None)


@contextmanager
def _nudged(inventory: Inventory) -> Iterator[None]:
    """Move every dense parameter that learns a little, the same in every process, and put it back afterwards."""
    parameters = [parameter for parameter in inventory.dense_parameters().values() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(_NUDGE * torch.randn(parameter.shape, generator=generator).to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def _everywhere(mine: list[Any]) -> list[Any]:
    """Return the lists of all processes, joined."""
    return [each for one in gathered(mine) for each in one]


def _merged(findings: Sequence[FlowFinding]) -> tuple[FlowFinding, ...]:
    """Join findings of one kind at one place, whatever segment, parameter or process showed them."""
    together: dict[Any, list[FlowFinding]] = defaultdict(list)
    for finding in findings:
        together[finding.severity, finding.kind, finding.place].append(finding)
    return tuple(
        FlowFinding(
            kind,
            place,
            tuple(dict.fromkeys(reason for each in alike for reason in each.reasons)),
            tuple(dict.fromkeys(segment for each in alike for segment in each.segments)),
            tuple(dict.fromkeys(name for each in alike for name in each.parameters)),
            severity,
        )
        for (severity, kind, place), alike in together.items()
    )
