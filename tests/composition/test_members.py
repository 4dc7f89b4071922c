"""Members of a head: each is a head of its own that shares the large matrices with the others."""

import pytest
import torch
from torch import Tensor, nn

from recsys.composition.members import Member, MemberMlp
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.ranker import Head, Ranker
from tests.small_model import JOINED_WIDTH, ROWS, batch_of, small_ranker


def by_hand(head: Head, joined: Tensor) -> Tensor:
    """(B, M, T) row by row and member by member: s * (W (r * x)) + c + b, ReLU, and the member's own output layer."""
    assert isinstance(head.hidden, MemberMlp)
    rows = []
    for x in joined:
        for member in head.members:
            h = x
            scales = zip(member.input_scales, member.output_scales, member.shifts, strict=True)
            for layer, (r, s, b) in zip(head.hidden.layers, scales, strict=True):
                h = torch.clamp(s * (layer.weight @ (r * h)) + layer.bias + b, min=0)
            rows.append(member.output.weight @ h + member.output.bias)
    return torch.stack(rows).view(len(joined), len(head.members), -1)


def spread(head: nn.Module) -> None:
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(0.2, 1.2)


def test_a_member_scales_what_goes_into_the_shared_matrix_and_what_comes_out() -> None:
    layer = MemberMlp(2, [2], dropout=0.0)
    with torch.no_grad():
        layer.layers[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.layers[0].bias.copy_(torch.tensor([0.5, -0.5]))
    scale_in, scale_out = torch.tensor([[1.0, 1.0], [-1.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.5]])
    shift = torch.tensor([[0.0, 0.0], [1.0, 1.0]])

    hidden = layer(torch.tensor([[1.0, 1.0]]), [scale_in, scale_out, shift])

    # The second member: W (-1, 2) = (3, 5), times (2, 0.5) = (6, 2.5), plus (0.5, -0.5) + (1, 1) = (7.5, 3).
    assert hidden.tolist() == [[[3.5, 6.5], [7.5, 3.0]]]


@pytest.mark.parametrize("widths", [[4], [5, 3]])
def test_members_equal_heads_that_are_computed_one_by_one_and_so_do_their_gradients(widths: list[int]) -> None:
    torch.manual_seed(0)
    head = Head(6, widths, dropout=0.0, first_order=None, members=3, outputs=("a", "b")).double()
    spread(head)
    joined = torch.randn(7, 6, dtype=torch.float64)
    weigh = torch.randn(7, 3, 2, dtype=torch.float64)
    # Outputs are single in a ranker; here the reference is compared in double.
    own = [torch.stack(each) for each in zip(*(member() for member in head.members), strict=True)]
    hidden = head.hidden(joined, own[:-2])
    found = torch.einsum("bmd,mtd->bmt", hidden, own[-2]) + own[-1]
    (found * weigh).sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    head.zero_grad()

    expected = by_hand(head, joined)
    (expected * weigh).sum().backward()

    torch.testing.assert_close(found, expected)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def members_ranker(members: int = 3) -> Ranker:
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)))
    first_order = ranker.head.first_order
    torch.manual_seed(1)
    ranker.head = Head(2 * JOINED_WIDTH, [4], 0.0, first_order, members=members)
    return ranker


def test_the_logit_is_the_members_mean_and_each_has_the_first_order_path() -> None:
    ranker, batch = members_ranker(), batch_of(ROWS)
    joined = ranker.composition(batch, ranker.embedding_tower, ranker.interaction_network)

    outputs = ranker.outputs(batch)

    expected = by_hand(ranker.head, joined) + ranker.head.first_order(batch)[:, None, None]
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(ranker(batch), expected.mean(dim=(1, 2)))
    torch.testing.assert_close(ranker.head.outputs(joined, batch), expected)


def test_one_member_has_the_modules_and_the_logits_of_a_head_without_members() -> None:
    torch.manual_seed(3)
    head = Head(4, [3], 0.0, None)

    assert [name for name, _ in head.named_parameters()] == [
        *("hidden.layers.0.weight", "hidden.layers.0.bias"),
        *("output.weight", "output.bias"),
    ]
    joined = torch.randn(5, 4)
    assert torch.equal(head(joined, batch_of(ROWS[:5])), head.output(head.hidden(joined)).squeeze(1))


def test_members_start_at_signs_of_their_own_and_scales_of_one() -> None:
    torch.manual_seed(0)
    member = Member([64, 5, 3], outputs=1)

    assert set(member.input_scales[0].tolist()) == {-1.0, 1.0}
    ones = [*member.input_scales[1:], *member.output_scales]
    assert all(set(each.tolist()) == {1.0} for each in ones)
    assert not any(each.any() for each in member.shifts)


def test_members_start_as_the_fitted_regression_each() -> None:
    ranker = members_ranker()
    with torch.no_grad():
        for member in ranker.head.members:
            member.output.weight.zero_()
    ranker.head.start_from(-0.75, [0.0, 0.0], {})
    with torch.no_grad():
        for table in ranker.head.first_order.ebc.parameters():
            table.zero_()

    assert set(ranker.outputs(batch_of(ROWS)).flatten().tolist()) == {-0.75}


def test_members_of_a_half_precision_ranker_end_in_single_logits() -> None:
    ranker, batch = members_ranker(), batch_of(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = ranker.outputs(batch)

    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, ranker.outputs(batch), rtol=0.05, atol=0.05)


def test_members_are_one_matrix_product_a_layer() -> None:
    head, batch = Head(8, [6, 5], 0.0, None, members=8), batch_of(ROWS)
    with torch.profiler.profile() as profile:
        head.outputs(torch.randn(6, 8), batch)
    products = {event.key: event.count for event in profile.key_averages()}
    # Two hidden layers and the output.
    assert (products["aten::addmm"], products["aten::baddbmm"]) == (1, 2)
    assert not {"aten::mm", "aten::bmm"} & set(products)
