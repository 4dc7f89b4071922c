"""Textbook ways to give every segment an expert, beside this project's, and what an absent segment's expert suffers.

    python -m tests.method.absent_designs

prints the tables of `docs/absent_segments.md`. Each design trains on batches that hold every segment, then on batches
that lack segment 1; measured is what that segment's expert went through meanwhile, though no row of its was seen.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.composition.conditional import SegmentExpert
from recsys.composition.routing import RowsBySegment
from recsys.sharding.processes import ProcessContext
from recsys.sharding.wrap import average_dense_gradients
from tests.sharding.two_processes import run_in_two

RATE = 0.01
WIDTH, ROWS, STEPS = 4, 24, 10
SEGMENTS, ABSENT = 3, 1

Parameters = list[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "SGD, momentum 0.9": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=RATE),
    "AdamW, decay 0.1": lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.1),
    # It has one accumulator per row, so it is for matrices alone.
    "row-wise Adagrad": lambda p: RowWiseAdagrad([each for each in p if each.dim() == 2], lr=RATE),
}


def by_own_routing(experts: nn.ModuleList, rows: Tensor, segment: Tensor) -> Tensor:
    """As this project's compositions do it."""
    return RowsBySegment(segment, segment.bincount(minlength=len(experts)).tolist()).apply(experts, rows)


def by_if_else(experts: nn.ModuleList, rows: Tensor, segment: Tensor) -> Tensor:
    """One branch per segment, taken where the batch has a row of it."""
    passed = torch.zeros_like(rows)
    for number, expert in enumerate(experts):
        mine = segment == number
        if mine.any():
            passed = passed.index_put((mine.nonzero().squeeze(1),), expert(rows[mine]))
    return passed


def by_mask(experts: nn.ModuleList, rows: Tensor, segment: Tensor) -> Tensor:
    """Every row through every expert, and all but one result times zero."""
    masks = nn.functional.one_hot(segment, len(experts)).to(rows.dtype)
    return torch.stack([expert(rows) for expert in experts], dim=1).mul(masks.unsqueeze(-1)).sum(dim=1)


@dataclass(frozen=True)
class Design:
    """How rows find their expert, and what is done to gradients between two steps."""

    route: Callable[[nn.ModuleList, Tensor, Tensor], Tensor]
    sets_to_none: bool


OWN = "this project: sorted, split, the absent one not called"
DESIGNS = {
    OWN: Design(by_own_routing, True),
    "if/else per segment, gradients set to None": Design(by_if_else, True),
    "if/else per segment, gradients zeroed": Design(by_if_else, False),
    "all experts, then mask": Design(by_mask, True),
}


class SmallModel(nn.Module):
    """A layer that all segments share, an expert for each with batch normalisation, and a last layer."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.route = design.route
        self.shared = nn.Linear(WIDTH, WIDTH)
        self.experts = nn.ModuleList(
            nn.Sequential(SegmentExpert(WIDTH, [WIDTH]), nn.BatchNorm1d(WIDTH)) for _ in range(SEGMENTS)
        )
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, rows: Tensor, segment: Tensor) -> Tensor:
        """Map (B, WIDTH) and (B,) to (B,)."""
        return self.last(self.route(self.experts, self.shared(rows), segment)).squeeze(1)

    def of_absent(self) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
        """The absent segment's own parameters and buffers."""
        expert = self.experts[ABSENT]
        return dict(expert.named_parameters()), dict(expert.named_buffers())


def batches(*, with_absent: bool, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows (B, WIDTH), segments (B,) and labels (B,), STEPS times."""
    draw = torch.Generator().manual_seed(seed)
    present = [segment for segment in range(SEGMENTS) if with_absent or segment != ABSENT]
    for _ in range(STEPS):
        rows = torch.randn(ROWS, WIDTH, generator=draw)
        yield rows, torch.tensor(present * ROWS)[:ROWS], (rows.sum(dim=1) > 0).float()


@dataclass(frozen=True)
class Moved:
    """What the absent segment's expert went through while none of its rows was seen.

    Attributes:
        parameters: largest change of any of its numbers after 1 and after STEPS steps, in learning rates.
        state, buffers: names of what changed of its optimizer state and its buffers.
    """

    first: float
    last: float
    state: tuple[str, ...]
    buffers: tuple[str, ...]

    @property
    def anything(self) -> bool:
        return bool(self.last or self.state or self.buffers)


def measure_row(make_optimizer: Callable[[Parameters], torch.optim.Optimizer]) -> tuple[float, float]:
    """Return by how many learning rates the absent segment's row of an `nn.Embedding` moves in 1 and in STEPS steps."""
    torch.manual_seed(0)
    table, last = nn.Embedding(SEGMENTS, WIDTH), nn.Linear(WIDTH, 1)
    model = _RowModel(table, last)
    optimizer = make_optimizer([*table.parameters(), *last.parameters()])
    for batch in batches(with_absent=True, seed=1):
        _step(model, optimizer, batch, sets_to_none=True)
    before = table.weight[ABSENT].detach().clone()
    changes = []
    for batch in batches(with_absent=False, seed=2):
        _step(model, optimizer, batch, sets_to_none=True)
        changes.append((table.weight[ABSENT] - before).abs().max().item() / RATE)
    return changes[0], changes[-1]


class _RowModel(nn.Module):
    """Adds each row's segment vector to it."""

    def __init__(self, table: nn.Embedding, last: nn.Linear) -> None:
        super().__init__()
        self.table, self.last = table, last

    def forward(self, rows: Tensor, segment: Tensor) -> Tensor:
        return self.last(rows * self.table(segment)).squeeze(1)


def measure(design: Design, make_optimizer: Callable[[Parameters], torch.optim.Optimizer]) -> Moved:
    """Train with every segment, then without one, in this process."""
    torch.manual_seed(0)
    model = SmallModel(design)
    optimizer = make_optimizer(list(model.parameters()))
    for batch in batches(with_absent=True, seed=1):
        _step(model, optimizer, batch, design.sets_to_none)
    parameters, buffers = model.of_absent()
    before = _copies({**parameters, **buffers}), _copies(_state_of(optimizer, parameters))
    changes = []
    for batch in batches(with_absent=False, seed=2):
        _step(model, optimizer, batch, design.sets_to_none)
        changes.append(max((p.detach() - before[0][name]).abs().max().item() for name, p in parameters.items()))
    state = _state_of(optimizer, parameters)
    return Moved(
        changes[0] / RATE,
        changes[-1] / RATE,
        tuple(sorted({name.split(" ")[1] for name, value in state.items() if not torch.equal(value, before[1][name])})),
        tuple(name.split(".")[-1] for name, value in buffers.items() if not torch.equal(value, before[0][name])),
    )


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    sets_to_none: bool,
    average: Callable[[], None] = lambda: None,
) -> None:
    rows, segment, label = batch
    optimizer.zero_grad(set_to_none=sets_to_none)
    nn.functional.binary_cross_entropy_with_logits(model(rows, segment), label).backward()
    average()
    optimizer.step()


def _state_of(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {
        f"{name} {key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


# Two processes: who averages the gradients decides


def _average_with_zeros(parameters: Parameters, context: ProcessContext) -> None:
    """The all-reduce of tutorials: a missing gradient counts as zeros, in every process."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= context.world_size


OWN_AVERAGE, ZEROS, FIND_UNUSED, PLAIN_DDP = AVERAGES = (
    "this project: all-reduce that counts who had one",
    "all-reduce, a missing gradient as zeros",
    "DDP, `find_unused_parameters=True`",
    "DDP with its defaults",
)


def measure_in_two(context: ProcessContext) -> dict[str, str]:
    """Train with segment 1 in the second process alone, then in neither; AdamW, and this project's routing."""
    return {kind: _outcome(kind, context) for kind in AVERAGES}


def _outcome(kind: str, context: ProcessContext) -> str:
    torch.manual_seed(0)
    model = SmallModel(DESIGNS[OWN])
    for expert in model.experts:
        expert[1] = nn.Identity()  # statistics of one's own half would hide what averaging does
    parameters = list(model.parameters())
    wrapped: nn.Module = model
    if kind in (FIND_UNUSED, PLAIN_DDP):
        wrapped = DistributedDataParallel(model, find_unused_parameters=kind == FIND_UNUSED)
    average: Callable[[], None] = {
        OWN_AVERAGE: lambda: average_dense_gradients(parameters, context),
        ZEROS: lambda: _average_with_zeros(parameters, context),
    }.get(kind, lambda: None)
    optimizer = OPTIMIZERS["AdamW, decay 0.1"](parameters)
    own, _ = model.of_absent()
    try:
        # Plain DDP would wait for ever for a segment that one process alone has.
        with_absent = context.rank == 1 or kind == PLAIN_DDP
        for batch in batches(with_absent=with_absent, seed=1 + context.rank):
            _step(wrapped, optimizer, batch, True, average)
        before = _copies(own)
        for batch in batches(with_absent=False, seed=3 + context.rank):
            _step(wrapped, optimizer, batch, True, average)
    except RuntimeError as error:
        return "stops: " + str(error).split(".")[0]
    moved = max((p.detach() - before[name]).abs().max().item() for name, p in own.items()) / RATE
    return "unchanged, bit for bit" if moved == 0 else f"moves by {moved:.2g}"


def one_process_table() -> list[str]:
    """Markdown rows: every design under every optimizer."""
    lines = ["| design | optimizer | after 1 step | after 10 steps | state | buffers |", "|---|---|---|---|---|---|"]
    for design_name, design in DESIGNS.items():
        for optimizer_name, optimizer in OPTIMIZERS.items():
            moved = measure(design, optimizer)
            numbers = [_number(moved.first), _number(moved.last)]
            words = [", ".join(f"`{name}`" for name in names) or "unchanged" for names in (moved.state, moved.buffers)]
            lines.append(f"| {' | '.join([design_name, optimizer_name, *numbers, *words])} |")
    return lines


def row_table() -> list[str]:
    """Markdown rows: the absent segment's row of one dense table under every optimizer."""
    lines = ["| optimizer of an `nn.Embedding` | after 1 step | after 10 steps |", "|---|---|---|"]
    for name, optimizer in OPTIMIZERS.items():
        lines.append(f"| {name} | {' | '.join(_number(value) for value in measure_row(optimizer))} |")
    return lines


def _number(value: float) -> str:
    return f"{value:.2g}" if value else "unchanged"


def two_processes_table() -> list[str]:
    """Markdown rows: every way to average under AdamW."""
    from tests.method.absent_designs import measure_in_two  # by its full name, which new processes can import

    with tempfile.TemporaryDirectory() as folder:
        outcomes, _ = run_in_two(measure_in_two, Path(folder))
    lines = ["| gradients of two processes | expert of a segment absent from both |", "|---|---|"]
    return [*lines, *(f"| {kind} | {outcome} |" for kind, outcome in outcomes.items())]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n".join([*one_process_table(), "", *row_table(), "", *two_processes_table()]))
