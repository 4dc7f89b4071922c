"""What belongs to a segment keeps every bit through the steps that lack it, whatever optimizer steps the rest.

Parameters, buffers and optimizer state alike, on the project's own compositions, with every kind of optimizer, in one
process and in two. The textbook designs stand beside them as counter-examples (`absent_designs.py`): the same
measurement finds each of them moving what it should not, so the tests of the project's own can fail.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recsys.composition.branches import BranchProjection
from recsys.composition.conditional import (
    ParallelConditionalComposition,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.parallel import ConcatJoin
from recsys.features.column_names import SEGMENT_KEY
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext
from recsys.sharding.whole_state import table_weights, whole
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.method.absent_designs import (
    DESIGNS,
    FIND_UNUSED,
    OPTIMIZERS,
    OWN,
    OWN_AVERAGE,
    PLAIN_DDP,
    STEPS,
    ZEROS,
    measure,
    measure_in_two,
    one_process_table,
    row_table,
)
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import table_optimizer_state
from tests.small_model import JOINED_WIDTH, ROWS, SEGMENTS, Row, batch_of, small_ranker
from tests.training.small_run import Batches, gated_ranker, small_run

LIGHT = SEGMENTS.index("light")
WITHOUT_LIGHT = tuple(row for row in ROWS if row.segment != LIGHT)
# The light segment's rows alone pass the tower.
ROUTES = (("interaction_network",), ("embedding_tower",), ("interaction_network",))
TOWER_DENSE = ("embedding_tower.user_side.", "embedding_tower.item_side.", "composition.projection.tower.")

COMPOSITIONS = {
    "gates and experts": (lambda p: SegmentGatedComposition(p, len(SEGMENTS), [4]), ("composition.segments.1.",)),
    "gates": (lambda p: SegmentGatedComposition(p, len(SEGMENTS), None), ("composition.segments.1.",)),
    "routes": (lambda p: SegmentRoutedComposition(p, ROUTES, None), TOWER_DENSE),
    "routes and experts": (
        lambda p: SegmentRoutedComposition(p, ROUTES, [4]),
        (*TOWER_DENSE, "composition.experts.1."),
    ),
    "parallel and conditional": (
        lambda p: ParallelConditionalComposition(p, ConcatJoin(JOINED_WIDTH), len(SEGMENTS), [4]),
        ("composition.segments.1.",),
    ),
}


def ranker_of(name: str, *, with_statistics: bool = True) -> nn.Module:
    """The small ranker; with batch normalisation planted after every expert, so that there are buffers to move."""
    make, _ = COMPOSITIONS[name]
    ranker = small_ranker(make)
    for attribute in ("segments", "experts") if with_statistics else ():
        experts = getattr(ranker.composition, attribute, None)
        for number, expert in enumerate(experts or ()):
            experts[number] = nn.Sequential(expert, LoneRowNorm(JOINED_WIDTH))
    return ranker


class LoneRowNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one row, as segments here have: it counts it and passes it on."""

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 1:
            return super().forward(rows)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(rows[0].detach(), 0.1)
        return rows * self.weight + self.bias


def everything_dense(ranker: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of every dense parameter, buffer and number of optimizer state, by name."""
    parameters = inventory_of(ranker).dense_parameters()
    state = {
        f"{name} {key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    tensors = {**parameters, **inventory_of(ranker).dense_buffers(), **state}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """What is not equal bit for bit, what came and what went."""
    same = {name for name in before.keys() & after.keys() if torch.equal(before[name], after[name])}
    return (before.keys() | after.keys()) - same


def step(ranker: nn.Module, optimizer: torch.optim.Optimizer, rows: Sequence[Row], context: ProcessContext) -> None:
    """One step as the loop takes it: gradients forgotten, averaged over processes, stepped."""
    optimizer.zero_grad(set_to_none=True)
    log_loss_objective(ranker, batch_of(rows)).backward()
    average_dense_gradients(list(inventory_of(ranker).dense_parameters().values()), context)
    optimizer.step()


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_what_belongs_to_an_absent_segment_keeps_every_bit(composition, optimizer_name, context) -> None:
    ranker = ranker_of(composition)
    _, own = COMPOSITIONS[composition]
    optimizer = OPTIMIZERS[optimizer_name](list(inventory_of(ranker).dense_parameters().values()))
    begin = everything_dense(ranker, optimizer)
    for _ in range(3):
        step(ranker, optimizer, ROWS, context)
    before = everything_dense(ranker, optimizer)

    for _ in range(3):
        step(ranker, optimizer, WITHOUT_LIGHT, context)

    after = everything_dense(ranker, optimizer)
    assert not [name for name in moved(before, after) if name.startswith(own)]
    # The same names moved while their rows were there, and the others go on.
    matrices = {name for name in before if name.startswith(own) and before[name].dim() == 2}
    assert matrices <= moved(begin, before) or optimizer_name == "row-wise Adagrad"
    assert [name for name in moved(begin, before) if name.startswith(own)] or "Adagrad" in optimizer_name
    assert {"head.output.weight"} <= moved(before, after)
    if composition in ("gates and experts", "routes and experts", "parallel and conditional"):
        assert [name for name in moved(begin, before) if name.startswith(own) and "running_mean" in name]


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "rowwise_adagrad"])
def test_rows_of_an_absent_segment_keep_every_bit_in_every_kind_of_table(rule, context) -> None:
    """The segment's own row, and every row that only its users and items look up; accumulators too."""
    tables = dict.fromkeys(("embedding_tower", "interaction_network", "head"), TableOptimizer(rule, 0.1))
    wrapped = wrap_ranker(gated_ranker(), tables, context)
    log_loss_objective(wrapped.module, batch_of(ROWS)).backward()
    before = {**table_weights(wrapped), **table_optimizer_state(wrapped)}
    (segments,) = [name for name in before if SEGMENT_KEY in name and name.endswith("weight")]

    log_loss_objective(wrapped.module, batch_of(WITHOUT_LIGHT)).backward()

    after = {**table_weights(wrapped), **table_optimizer_state(wrapped)}
    assert torch.equal(after[segments][LIGHT], before[segments][LIGHT])
    assert not torch.equal(after[segments][0], before[segments][0])
    (users,) = [name for name in before if "network_user_id" in name and name.endswith("weight")]
    assert torch.equal(after[users][4], before[users][4])  # user 4 is the light segment's only one
    if rule != "sgd":
        assert torch.equal(after[f"{segments}.sum"][LIGHT], before[f"{segments}.sum"][LIGHT])
        assert not torch.equal(after[f"{segments}.sum"][0], before[f"{segments}.sum"][0])


@pytest.mark.parametrize("rule", ["adagrad", "rowwise_adagrad"])
def test_the_tables_of_a_branch_that_no_row_passes_keep_every_bit(rule, context) -> None:
    """They are looked up all the same, as every process must; no row's gradient is theirs."""
    tables = dict.fromkeys(("embedding_tower", "interaction_network", "head"), TableOptimizer(rule, 0.1))
    wrapped = wrap_ranker(ranker_of("routes"), tables, context)
    log_loss_objective(wrapped.module, batch_of(ROWS)).backward()
    tower = wrapped.module.embedding_tower
    before = {**table_weights(tower), **table_optimizer_state(tower)}

    log_loss_objective(wrapped.module, batch_of(WITHOUT_LIGHT)).backward()

    assert moved(before, {**table_weights(tower), **table_optimizer_state(tower)}) == set()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_projects_loop_leaves_an_absent_segment_out_of_every_step(precision, context) -> None:
    """AdamW's moments, its count of steps and its decay; across epochs, norms, the view by segment, clipping,
    a scaled loss and validation."""
    run = small_run(context, weight_decay=0.5)
    run.train(3)
    run.stream = Batches([batch_of(WITHOUT_LIGHT)] * 3)
    weights, state = dict(inventory_of(run.ranker).dense_parameters()), whole(run.optimizers.parts())
    before = {**{name: p.detach().clone() for name, p in weights.items()}, **state}

    every_step = {"norms_every": 1, "segment_view_every": 1, "segments": SEGMENTS}
    run.train(9, validate_every=2, max_gradient_norm=0.1, precision=precision, **every_step)

    after = {**{name: p.detach().clone() for name, p in weights.items()}, **whole(run.optimizers.parts())}
    changed = moved(before, after)
    assert not [name for name in changed if name.startswith("composition.segments.1.")]
    assert [name for name in changed if name.startswith("composition.segments.0.")]
    assert [name for name in before if name.startswith("composition.segments.1.") and name.endswith("exp_avg")]


# Two processes


# Equal halves. The light segment: in the second process alone, in neither, in the second alone.
HALVES = ((ROWS[:3], ROWS[3:]), (ROWS[:2], (ROWS[2], ROWS[4])), (ROWS[:3], ROWS[3:]))


def train_in_one_of_two(context: ProcessContext) -> dict:
    """Every optimizer through the three steps; what moved in the second, and the weights at the end."""
    found = {}
    for name in OPTIMIZERS:
        found[name] = outcome(name, context, [halves[context.rank] for halves in HALVES])
    return {"own": found, "others": measure_in_two(context)}


def outcome(optimizer_name: str, context: ProcessContext, steps: Sequence[Sequence[Row]]) -> dict:
    still = {
        part: TableOptimizer("rowwise_adagrad", 0.01) for part in ("embedding_tower", "interaction_network", "head")
    }
    ranker = wrap_ranker(ranker_of("routes and experts", with_statistics=False), still, context).module
    optimizer = OPTIMIZERS[optimizer_name](list(inventory_of(ranker).dense_parameters().values()))
    seen = [everything_dense(ranker, optimizer)]
    for rows in steps:
        step(ranker, optimizer, rows, context)
        seen.append(everything_dense(ranker, optimizer))
    _, own = COMPOSITIONS["routes and experts"]
    return {
        "moved": [len([n for n in moved(a, b) if n.startswith(own)]) for a, b in pairwise(seen)],
        "end": {name: p.detach().flatten().tolist() for name, p in inventory_of(ranker).dense_parameters().items()},
    }


def test_two_processes_leave_what_both_lack_and_average_what_one_has(tmp_path: Path, context) -> None:
    first, second = run_in_two(train_in_one_of_two, tmp_path)

    assert first == second
    for name in OPTIMIZERS:
        alone = outcome(name, context, [one + other for one, other in HALVES])
        together = first["own"][name]
        assert together["moved"][1] == alone["moved"][1] == 0
        assert together["moved"][0] == alone["moved"][0] > 0
        assert together["moved"][2] == alone["moved"][2] > 0
        # Halves are summed in another order than the whole, and Adam's first steps divide by gradients near 0. SGD's
        # are the gradient itself: counted twice, or by the one process that had it, it would be out by far more.
        tolerance = 1e-6 if name.startswith("SGD") else 1e-4
        for parameter, values in alone["end"].items():
            torch.testing.assert_close(together["end"][parameter], values, rtol=0, atol=tolerance)
    others = first["others"]
    assert others[OWN_AVERAGE] == others[FIND_UNUSED] == "unchanged, bit for bit"
    assert others[ZEROS].startswith("moves by ")
    assert others[PLAIN_DDP].startswith("stops: Expected to have finished reduction")


# Counter-examples


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("design", DESIGNS)
def test_textbook_designs_move_what_is_absent_and_this_one_does_not(design, optimizer) -> None:
    found = measure(DESIGNS[design], OPTIMIZERS[optimizer])

    gets_zeros = design.endswith(("zeroed", "mask"))
    assert found.anything == gets_zeros
    assert bool(found.last) == (gets_zeros and optimizer != "row-wise Adagrad")
    assert bool(found.state) == gets_zeros
    assert bool(found.buffers) == design.endswith("mask")
    if gets_zeros and optimizer.startswith("Adam"):
        assert found.first > 0.5  # most of a whole learning rate in every step that has none of its rows
        assert found.last > STEPS / 2


def test_the_page_says_what_is_measured() -> None:
    """Words exactly, numbers within what another machine's rounding may change."""
    page = Path(__file__).parents[2] / "docs" / "absent_segments.md"
    written = [line for line in page.read_text().splitlines() if line.startswith("|")]
    measured = [*one_process_table(), *row_table()]

    for line in measured:
        assert any(same_cells(line, other) for other in written), line
    assert OWN in page.read_text()


def same_cells(one: str, other: str) -> bool:
    cells = [line.strip("| ").split(" | ") for line in (one, other)]
    return len(cells[0]) == len(cells[1]) and all(map(same_cell, *cells))


def same_cell(one: str, other: str) -> bool:
    try:
        return float(one) == pytest.approx(float(other), rel=0.2)
    except ValueError:
        return one == other


def test_a_projection_without_rows_has_no_gradient_rather_than_a_zero_one() -> None:
    """What the rest hangs on: None is what every optimizer passes over."""
    ranker = small_ranker(lambda p: SegmentRoutedComposition(p, ROUTES, [4]))
    assert isinstance(ranker.composition.projection, BranchProjection)

    log_loss_objective(ranker, batch_of(WITHOUT_LIGHT)).backward()

    gradients = {name: p.grad for name, p in inventory_of(ranker).dense_parameters().items()}
    without = {name for name, gradient in gradients.items() if gradient is None}
    assert without == {n for n in gradients if n.startswith((*TOWER_DENSE, "composition.experts.1."))}
