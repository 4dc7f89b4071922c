"""The claim that the project rests on: in every composition, gradients reach each part as they should.

Each test compares the gradient of every parameter, tables included, with that of a model written by hand
(`plain_ranker.py`), which works row by row in double precision. The tolerance, 1e-5 of a gradient's largest number, is
about a hundred roundings of single precision.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.composition.conditional import (
    ParallelConditionalComposition,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.parallel import ConcatJoin, GateJoin, ParallelComposition, ProductJoin, SumJoin
from recsys.composition.ranker import Ranker
from recsys.composition.sequential import SequentialComposition
from recsys.interactions.cross import LowRankCrossNetwork, MixtureCrossNetwork
from recsys.interactions.dot import DotInteraction
from recsys.interactions.factorisation_machine import FactorisationMachine
from recsys.interactions.mask import ParallelMaskNet, SerialMaskNet
from recsys.interactions.mlp import FlatCrossing
from recsys.interactions.two_streams import TwoStreamNetwork
from recsys.towers.tower_spec import TowerSpec
from tests.method import plain_ranker as plain
from tests.small_model import (
    FIELD_WIDTH,
    JOINED_WIDTH,
    NETWORK_WIDTH,
    ROWS,
    ROWS_WITHOUT_LIGHT,
    SEGMENTS,
    TOWER_WIDTH,
    Row,
    batch_of,
    small_ranker,
    small_schema,
)

RELATIVE_TOLERANCE = 1e-5
W, S = JOINED_WIDTH, len(SEGMENTS)

COMPOSITIONS = {
    "parallel concat": (lambda p: ParallelComposition(p, ConcatJoin(W)), plain.parallel_concat),
    "parallel sum": (lambda p: ParallelComposition(p, SumJoin(W)), plain.parallel_sum),
    "parallel product": (lambda p: ParallelComposition(p, ProductJoin(W)), plain.parallel_product),
    "parallel gate": (lambda p: ParallelComposition(p, GateJoin(W)), plain.parallel_gate),
    "conditional gate": (lambda p: SegmentGatedComposition(p, S, None), plain.conditional_gate),
    "conditional gate and experts": (lambda p: SegmentGatedComposition(p, S, [7]), plain.conditional_gate_and_experts),
    "conditional route": (lambda p: SegmentRoutedComposition(p, plain.ROUTES, None), plain.routed_by(plain.ROUTES)),
    "conditional route and experts": (
        lambda p: SegmentRoutedComposition(p, plain.ROUTES, [7]),
        plain.routed_with_experts,
    ),
    "parallel and conditional": (
        lambda p: ParallelConditionalComposition(p, ConcatJoin(W), S, [7]),
        plain.parallel_conditional,
    ),
}
CROSSINGS = {
    "low-rank cross": (lambda f, d: LowRankCrossNetwork(f, d, num_layers=2, rank=2), plain.cross_low_rank),
    "cross mixture": (lambda f, d: MixtureCrossNetwork(f, d, 2, 3, 2, "softmax"), plain.cross_mixture),
    "dot": (DotInteraction, plain.dot),
    "factorisation machine": (
        lambda _, d: FactorisationMachine(d, is_summed=False),
        plain.factorisation_machine,
    ),
    "summed factorisation machine": (
        lambda _, d: FactorisationMachine(d, is_summed=True),
        plain.summed_factorisation_machine,
    ),
    "two streams": (
        lambda f, d: TwoStreamNetwork(f, d, [8, 4], [6], gate_width=5, heads=2, output_width=7, dropout=0.0),
        plain.two_streams,
    ),
    "serial mask": (lambda f, d: SerialMaskNet(f, d, block_widths=[8, 6], mask_ratio=0.5), plain.mask_serial),
    "parallel mask": (lambda f, d: ParallelMaskNet(f, d, block_widths=[8, 6], mask_ratio=0.5), plain.mask_parallel),
    "flat": (FlatCrossing, plain.flat),
}


def sequential_ranker(**parts) -> Ranker:
    tower_width = parts.pop("tower_width", 3 * TOWER_WIDTH)
    return small_ranker(
        lambda _: SequentialComposition(tower_width, FIELD_WIDTH, NETWORK_WIDTH), has_tower_field=True, **parts
    )


def gradients_of_plain_model(
    model: plain.PlainRanker, ranker: Ranker, rows: Sequence[Row]
) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    parameters = {n: p.detach().double().requires_grad_() for n, p in ranker.named_parameters()}
    model.loss(parameters, rows).backward()
    return model.logits(parameters, rows).detach(), {name: p.grad for name, p in parameters.items()}


def assert_same_gradients(ranker: Ranker, model: plain.PlainRanker, rows: Sequence[Row]) -> None:
    batch = batch_of(rows)
    logits = ranker(batch)
    binary_cross_entropy_with_logits(logits, batch.label).backward()

    expected_logits, expected = gradients_of_plain_model(model, ranker, rows)
    torch.testing.assert_close(logits.double(), expected_logits, rtol=RELATIVE_TOLERANCE, atol=1e-6)
    for name, parameter in ranker.named_parameters():
        want, found = expected[name], parameter.grad
        if want is None or (not want.any() and ".ebc." in name):
            # A table is looked up for every row: one that no row learns from has a gradient of zeros instead of none.
            assert found is None or (".ebc." in name and not found.any()), name
            continue
        assert found is not None, f"{name} got no gradient"
        assert want.any(), f"{name}: a gradient of zeros would prove nothing"
        difference = (found.double() - want).abs().max() / want.abs().max()
        assert difference < RELATIVE_TOLERANCE, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("rows", [ROWS, ROWS_WITHOUT_LIGHT], ids=["all segments", "one segment absent"])
@pytest.mark.parametrize(("make", "compose"), COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def test_every_parameter_of_every_composition_gets_the_plain_models_gradient(
    make: Callable, compose: Callable, rows: Sequence[Row]
) -> None:
    assert_same_gradients(small_ranker(make), plain.PlainRanker(compose), rows)


def test_every_parameter_of_the_sequential_composition_gets_the_plain_models_gradient() -> None:
    assert_same_gradients(sequential_ranker(), plain.PlainRanker(plain.sequential), ROWS)


@pytest.mark.parametrize(("make", "crossing"), CROSSINGS.values(), ids=CROSSINGS.keys())
def test_every_parameter_of_every_interaction_network_gets_the_plain_models_gradient(
    make: Callable, crossing: Callable
) -> None:
    ranker = small_ranker(COMPOSITIONS["parallel concat"][0], make_crossing=make)

    assert_same_gradients(ranker, plain.PlainRanker(plain.parallel_concat, crossing=crossing), ROWS)


@pytest.mark.parametrize(("make", "crossing"), CROSSINGS.values(), ids=CROSSINGS.keys())
def test_every_interaction_network_crosses_the_towers_field_as_the_plain_model_does(
    make: Callable, crossing: Callable
) -> None:
    assert_same_gradients(
        sequential_ranker(make_crossing=make), plain.PlainRanker(plain.sequential, crossing=crossing), ROWS
    )


@pytest.mark.parametrize(("make", "compose"), COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def test_imported_vectors_that_are_fine_tuned_get_the_plain_models_gradient(make: Callable, compose: Callable) -> None:
    spec = TowerSpec.imported(small_schema(), width=TOWER_WIDTH)

    assert_same_gradients(small_ranker(make, spec=spec), plain.PlainRanker(compose, tower=plain.imported_tower), ROWS)


@pytest.mark.parametrize(("make", "compose"), COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def test_freezing_the_tower_takes_away_its_gradient_and_no_other(make: Callable, compose: Callable) -> None:
    ranker = small_ranker(make)
    batch = batch_of(ROWS)
    learning = ranker(batch)
    ranker.embedding_tower.is_frozen = True
    logits = ranker(batch)
    binary_cross_entropy_with_logits(logits, batch.label).backward()

    _, expected = gradients_of_plain_model(plain.PlainRanker(compose), ranker, ROWS)

    assert torch.equal(logits, learning)
    for name, parameter in ranker.named_parameters():
        if name.startswith("embedding_tower."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            difference = (parameter.grad.double() - expected[name]).abs().max() / expected[name].abs().max()
            assert difference < RELATIVE_TOLERANCE, f"{name}: {difference:.1e}"


@pytest.mark.parametrize(
    "make",
    [COMPOSITIONS["conditional gate and experts"][0], COMPOSITIONS["parallel and conditional"][0]],
    ids=["conditional", "parallel and conditional"],
)
def test_the_parameters_of_an_absent_segment_get_no_gradient_at_all(make: Callable) -> None:
    ranker = small_ranker(make)
    ranker(batch_of(ROWS_WITHOUT_LIGHT)).sum().backward()

    have_gradient = {
        segment: [p.grad is not None for p in ranker.composition.segments[segment].parameters()] for segment in range(S)
    }
    assert all(have_gradient[0])
    assert not any(have_gradient[1])
    assert all(have_gradient[2])


@pytest.mark.parametrize(
    ("lonely", "other"), [("embedding_tower", "interaction_network"), ("interaction_network", "embedding_tower")]
)
def test_a_branch_that_no_row_is_routed_to_has_layers_without_gradient_and_tables_in_the_graph(
    lonely: str, other: str
) -> None:
    # Only segment 1 passes the lonely branch, and no row is of segment 1.
    routes = [[other], [lonely], [other]]
    ranker = small_ranker(lambda p: SegmentRoutedComposition(p, routes, None))

    assert_same_gradients(ranker, plain.PlainRanker(plain.routed_by(routes)), ROWS_WITHOUT_LIGHT)

    branch = dict(ranker.get_submodule(lonely).named_parameters())
    tables = [name for name in branch if "ebc." in name]
    assert [name for name, p in branch.items() if p.grad is not None] == tables
    assert not any(branch[name].grad.any() for name in tables)


def test_a_table_row_that_no_routed_row_looked_up_gets_no_gradient() -> None:
    ranker = small_ranker(lambda p: SegmentRoutedComposition(p, plain.ROUTES, None))
    ranker(batch_of(ROWS)).sum().backward()

    # Segment 1 passes the network alone; its row is the only one of user 4.
    gradient = ranker.embedding_tower.ebc.embedding_bags["tower_user_id"].weight.grad
    assert not gradient[4].any()
    assert ranker.interaction_network.fields.ebc.embedding_bags["network_user_id"].weight.grad[4].any()
