"""What each composition does with its branches, and the ranker around it."""

import copy

import pytest
import torch

from recsys.composition.branches import BranchProjection
from recsys.composition.conditional import (
    BranchGate,
    ParallelConditionalComposition,
    SegmentExpert,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.epnet import EpnetComposition
from recsys.composition.parallel import ConcatJoin, GateJoin, ParallelComposition, ProductJoin, SumJoin
from recsys.composition.ppnet import PpnetComposition
from recsys.composition.ranker import Ranker
from recsys.composition.residual_expert import SharedResidualComposition
from recsys.composition.segment_linear import SegmentLinearComposition
from recsys.composition.sequential import SequentialComposition
from recsys.composition.star import StarComposition
from recsys.errors import UsageError
from tests.small_model import (
    FIELD_WIDTH,
    JOINED_WIDTH,
    NETWORK_WIDTH,
    ROWS,
    ROWS_WITHOUT_LIGHT,
    SEGMENTS,
    TOWER_WIDTH,
    batch_of,
    small_ranker,
)

W, S = JOINED_WIDTH, len(SEGMENTS)
ROUTES = (("embedding_tower",), ("interaction_network",), ("embedding_tower", "interaction_network"))


def concat(projection: BranchProjection) -> ParallelComposition:
    return ParallelComposition(projection, ConcatJoin(W))


NESTED = {
    "shared and residual experts": lambda p: SharedResidualComposition(concat(p), S, [8], None),
    "shared and low-rank experts": lambda p: SharedResidualComposition(concat(p), S, [7], 2),
    "star": lambda p: StarComposition(concat(p), S, [7, 6]),
    "epnet": lambda p: EpnetComposition(concat(p), S, 3, 6),
    "ppnet": lambda p: PpnetComposition(concat(p), 3 * TOWER_WIDTH, S, [7, 6], 3, 6),
    "segment linear": lambda p: SegmentLinearComposition(concat(p), 3 * TOWER_WIDTH, S, 4, 0.1),
    "pepnet": lambda p: PpnetComposition(EpnetComposition(concat(p), S, 3, 6), 3 * TOWER_WIDTH, S, [7], 3, 6),
}
COMPOSITIONS = {
    "sequential": lambda _: SequentialComposition(3 * TOWER_WIDTH, FIELD_WIDTH, NETWORK_WIDTH),
    "concat": lambda p: ParallelComposition(p, ConcatJoin(W)),
    "sum": lambda p: ParallelComposition(p, SumJoin(W)),
    "product": lambda p: ParallelComposition(p, ProductJoin(W)),
    "gate": lambda p: ParallelComposition(p, GateJoin(W)),
    "conditional gate": lambda p: SegmentGatedComposition(p, S, None),
    "conditional gate and experts": lambda p: SegmentGatedComposition(p, S, [7]),
    "conditional route": lambda p: SegmentRoutedComposition(p, ROUTES, None),
    "conditional route and experts": lambda p: SegmentRoutedComposition(p, ROUTES, [7]),
    "parallel and conditional": lambda p: ParallelConditionalComposition(p, ConcatJoin(W), S, [7]),
    **NESTED,
    "nested sequential": lambda _: EpnetComposition(
        SequentialComposition(3 * TOWER_WIDTH, FIELD_WIDTH, NETWORK_WIDTH), S, 3, 6
    ),
    "nested route": lambda p: SharedResidualComposition(SegmentRoutedComposition(p, ROUTES, [7]), S, [7], None),
}


def ranker_with(name: str, seed: int = 0) -> Ranker:
    return small_ranker(COMPOSITIONS[name], has_tower_field="sequential" in name, seed=seed)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_joined_vector_has_the_width_it_promises_and_the_ranker_gives_one_logit_a_row(name: str) -> None:
    ranker, batch = ranker_with(name), batch_of(ROWS)

    joined = ranker.composition(batch, ranker.embedding_tower, ranker.interaction_network)

    assert joined.shape == (6, ranker.composition.output_width)
    assert ranker(batch).shape == (6,)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_rows_logit_does_not_depend_on_the_rows_beside_it(name: str) -> None:
    ranker = ranker_with(name)
    whole = ranker(batch_of(ROWS))

    for position, row in enumerate(ROWS):
        torch.testing.assert_close(ranker(batch_of([row]))[0], whole[position])


def test_the_ranker_has_the_four_parts_that_the_run_wing_knows_by_name() -> None:
    parts = [name for name, _ in ranker_with("concat").named_children()]

    assert parts == ["embedding_tower", "interaction_network", "composition", "head"]


def test_one_seed_gives_one_ranker() -> None:
    first, second, other = ranker_with("concat"), ranker_with("concat"), ranker_with("concat", seed=1)

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_both_training_modes_start_from_the_same_logits(name: str) -> None:
    end_to_end = ranker_with(name)
    frozen = copy.deepcopy(end_to_end)
    frozen.embedding_tower.is_frozen = True
    frozen.train()

    assert torch.equal(frozen(batch_of(ROWS)), end_to_end(batch_of(ROWS)))


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (ConcatJoin(2), [[1, 2, 3, 5]]),
        (SumJoin(2), [[4, 7]]),
        (ProductJoin(2), [[3, 10]]),
    ],
)
def test_a_join_is_what_its_name_says(join: torch.nn.Module, expected: list[list[float]]) -> None:
    assert join(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])).tolist() == expected


@pytest.mark.parametrize(("bias", "expected"), [(0.0, [2.0, 3.5]), (50.0, [1.0, 2.0]), (-50.0, [3.0, 5.0])])
def test_the_gate_join_goes_from_the_network_to_the_tower(bias: float, expected: list[float]) -> None:
    join = GateJoin(2)
    torch.nn.init.zeros_(join.gate.weight)
    torch.nn.init.constant_(join.gate.bias, bias)

    torch.testing.assert_close(join(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])), torch.tensor([expected]))


def test_a_segments_gate_starts_at_the_plain_average_of_the_branches() -> None:
    assert BranchGate()(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])).tolist() == [[2.0, 3.5]]


def test_a_segments_expert_adds_to_what_it_gets() -> None:
    expert = SegmentExpert(2, [3])
    torch.nn.init.zeros_(expert.output.weight)
    torch.nn.init.constant_(expert.output.bias, 1.0)

    assert expert(torch.tensor([[5.0, 7.0]])).tolist() == [[6.0, 8.0]]


class Branch:
    """Stands in for a tower or a network: gives its constant, and remembers which rows it was asked for."""

    def __init__(self, width: int, value: float) -> None:
        self.width, self.value = width, value
        self.asked: list[list[int] | None] = []

    def __call__(self, batch, rows=None):
        self.asked.append(None if rows is None else rows.tolist())
        return torch.full((len(batch) if rows is None else len(rows), self.width), self.value)


def test_a_fixed_route_sends_rows_only_through_the_branches_of_their_segment() -> None:
    projection = BranchProjection(tower_width=1, network_width=1, width=1)
    for linear in (projection.tower, projection.network):
        torch.nn.init.ones_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    tower, network = Branch(1, 10.0), Branch(1, 1.0)

    joined = SegmentRoutedComposition(projection, ROUTES, None)(batch_of(ROWS), tower, network)

    # Segments 0, 2, 0, 1, 2, 0; 0 passes the tower, 1 the network, 2 both.
    assert tower.asked == [[0, 1, 2, 4, 5]]
    assert network.asked == [[1, 3, 4]]
    assert joined.flatten().tolist() == [10, 11, 10, 1, 11, 10]


def test_a_branch_is_called_once_even_where_no_row_passes_it() -> None:
    tower, network = Branch(1, 10.0), Branch(1, 1.0)
    composition = SegmentRoutedComposition(
        BranchProjection(1, 1, 1), [["embedding_tower"], ["interaction_network"], ["embedding_tower"]], None
    )

    composition(batch_of(ROWS_WITHOUT_LIGHT), tower, network)

    assert network.asked == [[]]


@pytest.mark.parametrize("route", [[], ["tower"]])
def test_a_route_to_nowhere_is_refused(route: list[str]) -> None:
    routes = [["embedding_tower"], route]

    with pytest.raises(UsageError, match=r"route of segment 1 is .*expected one or both of embedding_tower"):
        SegmentRoutedComposition(BranchProjection(1, 1, 1), routes, None)


@pytest.mark.parametrize("name", ["conditional gate and experts", "conditional route and experts"])
def test_adamw_leaves_every_bit_of_an_absent_segments_parameters_and_moments(name: str) -> None:
    ranker = ranker_with(name)
    own = ranker.composition.segments[1] if "gate" in name else ranker.composition.experts[1]
    dense = [p for n, p in ranker.named_parameters() if ".ebc." not in n]
    optimizer = torch.optim.AdamW(dense, lr=0.1, weight_decay=0.1)

    def train_on(rows: tuple) -> None:
        optimizer.zero_grad(set_to_none=True)
        ranker(batch_of(rows)).sum().backward()
        optimizer.step()

    # First a step with the segment, so that there is momentum to move it by.
    train_on(ROWS)
    before = copy.deepcopy([(p.detach(), optimizer.state[p]["exp_avg"]) for p in own.parameters()])
    for _ in range(3):
        train_on(ROWS_WITHOUT_LIGHT)

    for parameter, (value, moment) in zip(own.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)


def test_shared_parts_do_move_while_a_segment_is_absent() -> None:
    ranker: Ranker = ranker_with("conditional gate and experts")
    before = copy.deepcopy(ranker.composition.projection.tower.weight)
    optimizer = torch.optim.SGD(ranker.composition.parameters(), lr=0.1)

    ranker(batch_of(ROWS_WITHOUT_LIGHT)).sum().backward()
    optimizer.step()

    assert not torch.equal(ranker.composition.projection.tower.weight, before)


PEPNET = ("inner.inner.projection", "inner.inner.join", "inner.gate", "layers", "gates")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("sequential", {"tower_field"}),
        ("gate", {"projection", "join"}),
        ("conditional gate", {"projection", "segments.1"}),
        ("conditional route and experts", {"projection.network", "experts.1"}),
        ("parallel and conditional", {"projection", "join", "segments.1"}),
        ("shared and residual experts", {"inner.projection", "inner.join", "shared", "segments.1"}),
        ("pepnet", {*PEPNET, "inner.segments.1", "segments.1"}),
        ("nested route", {"inner.projection.network", "inner.experts.1", "shared", "segments.1"}),
    ],
)
def test_a_composition_says_what_a_segments_rows_reach(name: str, own: set[str]) -> None:
    branches = {"interaction_network"} if "route" in name else {"embedding_tower", "interaction_network"}

    reached = ranker_with(name).reached_by(segment=1)

    assert reached == branches | {f"composition.{module}" for module in own} | {"head"}


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("segment", range(S))
def test_the_gradient_of_a_segments_rows_goes_where_the_composition_says_and_nowhere_else(
    name: str, segment: int
) -> None:
    ranker = ranker_with(name)
    reached = tuple(f"{module}." for module in ranker.reached_by(segment))

    ranker(batch_of([row for row in ROWS if row.segment == segment])).sum().backward()

    moved = {n for n, p in ranker.named_parameters() if p.grad is not None and p.grad.any()}
    # Tables alone may be looked up in vain: no rank may skip them.
    graph = {n for n, p in ranker.named_parameters() if p.grad is not None and ".ebc." not in n}
    assert moved | graph == {n for n in moved | graph if n.startswith(reached)}
    assert {n for n, _ in ranker.named_parameters() if n.startswith(reached) and ".ebc." not in n} == graph
