"""Each crossing against its paper's formula, with numbers worked out by hand."""

import math
from collections.abc import Callable

import pytest
import torch

from recsys.interactions.cross import CrossNetwork, LowRankCrossNetwork, MixtureCrossNetwork
from recsys.interactions.dot import DotInteraction
from recsys.interactions.factorisation_machine import FactorisationMachine
from recsys.interactions.mask import MaskBlock, ParallelMaskNet, SerialMaskNet
from recsys.interactions.mlp import FlatCrossing, Mlp
from recsys.interactions.two_streams import BilinearFusion, FeatureGate, TwoStreamNetwork

CROSSINGS = {
    "cross": lambda f, d: CrossNetwork(f, d, num_layers=2),
    "low-rank cross": lambda f, d: LowRankCrossNetwork(f, d, num_layers=2, rank=2),
    "softmax cross mixture": lambda f, d: MixtureCrossNetwork(f, d, 2, experts=3, rank=2, gating="softmax"),
    "sigmoid cross mixture": lambda f, d: MixtureCrossNetwork(f, d, 2, experts=3, rank=2, gating="sigmoid"),
    "dot": DotInteraction,
    "factorisation machine": lambda _, d: FactorisationMachine(d, is_summed=False),
    "summed factorisation machine": lambda _, d: FactorisationMachine(d, is_summed=True),
    "two streams": lambda f, d: TwoStreamNetwork(f, d, [8, 4], [6], gate_width=5, heads=2, output_width=7, dropout=0.0),
    "serial mask": lambda f, d: SerialMaskNet(f, d, block_widths=[8, 6], mask_ratio=0.5),
    "parallel mask": lambda f, d: ParallelMaskNet(f, d, block_widths=[8, 6], mask_ratio=0.5),
    "flat": FlatCrossing,
}


def filled(layer: torch.nn.Linear, weight: list[list[float]], bias: list[float] | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


@pytest.mark.parametrize("make", CROSSINGS.values(), ids=CROSSINGS.keys())
def test_a_crossing_gives_the_width_it_promises(make: Callable) -> None:
    crossing = make(3, 4)

    assert crossing(torch.randn(5, 3, 4)).shape == (5, crossing.output_width)


@pytest.mark.parametrize("make", CROSSINGS.values(), ids=CROSSINGS.keys())
def test_a_crossing_treats_every_row_by_itself(make: Callable) -> None:
    crossing, fields = make(3, 4), torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(crossing(fields)[2:3], crossing(fields[2:3]))


def test_the_cross_network_follows_equation_1() -> None:
    network = CrossNetwork(num_fields=2, dimension=1, num_layers=2)
    filled(network.linears[0], [[1, 2], [0, 1]], [1, 0])
    filled(network.linears[1], [[0, 1], [1, 0]], [0, -1])

    # x0 = (2, 3). W0 x0 + b0 = (2 + 6 + 1, 3) = (9, 3); x1 = x0 * (9, 3) + x0 = (20, 12).
    # W1 x1 + b1 = (12, 20 - 1) = (12, 19); x2 = x0 * (12, 19) + x1 = (24 + 20, 57 + 12) = (44, 69).
    assert network(torch.tensor([[[2.0], [3.0]]])).tolist() == [[44, 69]]


def test_the_low_rank_cross_network_follows_equation_2() -> None:
    network = LowRankCrossNetwork(num_fields=2, dimension=1, num_layers=1, rank=1)
    v, u = network.linears[0]
    filled(v, [[1, -2]])
    filled(u, [[3], [1]], [1, 0])

    # V^T x0 = 2 - 6 = -4; U (-4) + b = (-12 + 1, -4); x1 = (2, 3) * (-11, -4) + (2, 3) = (-20, -9).
    assert network(torch.tensor([[[2.0], [3.0]]])).tolist() == [[-20, -9]]


def test_the_cross_mixture_follows_equation_3() -> None:
    network = MixtureCrossNetwork(num_fields=2, dimension=1, num_layers=1, experts=2, rank=1, gating="softmax")
    layer = network.linears[0]
    filled(layer.v, [[0, 1], [-1, 2]])
    filled(layer.u, [[2, -2], [1, 2]], [1, 1])
    filled(layer.gate, [[0, 0], [0, 0]])

    # x0 = (2, 3). V^T x0 = 3 and 4; U_1 3 = (6, 3), U_2 4 = (-8, 8). Gates of 1/2 give (-1, 5.5), and + b (0, 6.5).
    # x1 = (2, 3) * (0, 6.5) + (2, 3) = (2, 22.5).
    assert network(torch.tensor([[[2.0], [3.0]]])).tolist() == [[2, 22.5]]


def test_the_gates_of_a_cross_mixture_depend_on_the_row_and_weigh_its_bias_too() -> None:
    softmax, sigmoid = (MixtureCrossNetwork(1, 1, 1, experts=2, rank=1, gating=g) for g in ("softmax", "sigmoid"))
    for network in (softmax, sigmoid):
        filled(network.linears[0].v, [[1], [1]])
        filled(network.linears[0].u, [[1, 3]], [10])
        filled(network.linears[0].gate, [[1], [-1]])

    found = [network(torch.tensor([[[2.0]]])).item() for network in (softmax, sigmoid)]

    first, second = math.exp(2) / (math.exp(2) + math.exp(-2)), math.exp(-2) / (math.exp(2) + math.exp(-2))
    assert found[0] == pytest.approx(2 * (first * (2 + 10) + second * (6 + 10)) + 2)
    first, second = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    assert found[1] == pytest.approx(2 * (first * (2 + 10) + second * (6 + 10)) + 2)


def test_a_factorisation_machine_adds_up_the_products_of_all_pairs_of_fields() -> None:
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])

    # (1*3 + 1*5 + 3*5, 2*4 + 2*6 + 4*6), and their sum: the dot products 11 + 17 + 39.
    assert FactorisationMachine(dimension=2, is_summed=False)(fields).tolist() == [[23, 44]]
    assert FactorisationMachine(dimension=2, is_summed=True)(fields).tolist() == [[67]]


def test_a_feature_gate_multiplies_by_twice_a_sigmoid() -> None:
    gate = FeatureGate(width=2, hidden_width=1)
    filled(gate.gate[0], [[1, 1]], [0])
    filled(gate.gate[2], [[0], [1]], [0, -3])

    # Hidden 1 + 2 = 3; 2 sigmoid((0, 3 - 3)) = (1, 1).
    assert gate(torch.tensor([[1.0, 2.0]])).tolist() == [[1, 2]]
    # Hidden 0; 2 sigmoid((0, -3)) = (1, 0.0949).
    found = gate(torch.tensor([[-1.0, -2.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, -4 / (1 + math.exp(3))]]))


def test_a_bilinear_fusion_multiplies_numbers_of_the_same_head_alone() -> None:
    fusion = BilinearFusion(first_width=4, second_width=2, heads=2, output_width=1)
    filled(fusion.first, [[1, 0, 0, 0]], [100])
    filled(fusion.second, [[0, 10]])
    # Head 1: (o1_1, o1_2) x (o2_1); head 2: (o1_3, o1_4) x (o2_2).
    filled(fusion.products, [[1, 2, 3, 4]])

    # 100 + 1 + 10*6 + 1*1*5 + 2*2*5 + 3*3*6 + 4*4*6
    assert fusion(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[5.0, 6.0]])).tolist() == [[336]]


def test_the_dot_interaction_multiplies_every_pair_of_fields_once() -> None:
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])

    # 1*3 + 2*4, 1*5 + 2*6, 3*5 + 4*6
    assert DotInteraction(num_fields=3, dimension=2)(fields).tolist() == [[1, 2, 3, 4, 5, 6, 11, 17, 39]]


def test_a_mask_block_multiplies_its_input_by_the_mask_before_its_layer_and_norm() -> None:
    block = MaskBlock(guide_width=2, input_width=2, width=2, mask_ratio=0.5)
    filled(block.mask[0], [[1, 1]], [0])
    filled(block.mask[2], [[1], [-1]], [0, 1])
    filled(block.linear, [[1, 0], [0, 1]])

    # Hidden 1 + 2 = 3, mask (3, -3 + 1); times (2, 5) = (6, -10); normed (1, -1); ReLU (1, 0).
    result = block(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 5.0]]))
    torch.testing.assert_close(result, torch.tensor([[1.0, 0.0]]), rtol=0, atol=1e-5)


def test_serial_mask_blocks_are_all_guided_by_the_fields_themselves() -> None:
    network = SerialMaskNet(num_fields=2, dimension=2, block_widths=[3, 3], mask_ratio=1.0)
    fields = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0))

    first = network.blocks[0](fields.flatten(1), network.norm(fields).flatten(1))
    torch.testing.assert_close(network(fields), network.blocks[1](fields.flatten(1), first))


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    torch.manual_seed(0)
    mlp, rows = Mlp(4, [64], dropout=0.5), torch.randn(3, 4)

    assert not torch.equal(mlp(rows), mlp(rows))
    mlp.eval()
    assert torch.equal(mlp(rows), mlp(rows))
