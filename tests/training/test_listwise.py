"""The listwise loss on small numbers, and what it has to do with how candidates were sampled."""

import math

import pytest
import torch

from recsys.training.objectives.listwise import listwise_loss

ONES = torch.ones(4)


def test_a_choice_is_compared_with_what_its_own_query_did_not_choose() -> None:
    logit = torch.tensor([math.log(3), 0.0, 0.0, 50.0])
    label, query = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([4, 4, 4, 9])

    # 3 of 3 + 1 + 1; the other query's high logit is nobody's rival.
    assert listwise_loss(logit, label, ONES, query).item() == pytest.approx(math.log(5 / 3))


def test_several_choices_of_a_query_are_no_rivals_of_one_another() -> None:
    logit, label = torch.tensor([0.0, 5.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])

    first, second = math.log(3), math.log((math.exp(5) + 2) / math.exp(5))
    loss = listwise_loss(logit, label, ONES, torch.zeros(4, dtype=torch.int64))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_a_negative_of_weight_three_counts_as_three_candidates() -> None:
    label, query = torch.tensor([1.0, 0.0]), torch.tensor([1, 1])

    loss = listwise_loss(torch.zeros(2), label, torch.tensor([1.0, 3.0]), query)
    assert loss.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("logits", "loss"), [([300.0, -300.0], 0.0), ([-300.0, 300.0], 600.0), ([9e4, 9e4], 0.6931472)]
)
def test_extreme_logits_cost_their_distance_and_stay_finite(logits: list[float], loss: float) -> None:
    logit = torch.tensor(logits, requires_grad=True)

    found = listwise_loss(logit, torch.tensor([1.0, 0.0]), torch.ones(2), torch.tensor([3, 3]))
    found.backward()

    assert found.item() == pytest.approx(loss)
    assert logit.grad.isfinite().all()


def test_members_have_a_loss_each() -> None:
    logits = torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    label, query, weight = torch.tensor([1.0, 0.0]), torch.tensor([1, 1]), torch.ones(2)

    both = listwise_loss(logits, label, weight, query)
    alone = [listwise_loss(logits[:, member], label, weight, query) for member in (0, 1)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_what_sampling_hides_comes_back_with_the_rates_when_candidates_are_ranked() -> None:
    # Everybody chooses item 0 with 0.6, item 1 with 0.3, item 2 with 0.1; negatives are drawn with q.
    choice, q = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    pairs = [(chosen, drawn) for chosen in range(3) for drawn in range(3) if chosen != drawn]
    items = torch.tensor(pairs).flatten()
    label, query = torch.tensor([1.0, 0.0]).repeat(len(pairs)), torch.arange(len(pairs)).repeat_interleave(2)
    # As often as a pair occurs; a negative is one candidate of its own query.
    often = torch.tensor([float(choice[chosen] * q[drawn]) for chosen, drawn in pairs])
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weight = torch.stack([often, torch.ones(len(pairs))], dim=1).flatten()
        loss = listwise_loss(logits[items], label, weight, query)
        loss.backward()
        return loss

    optimizer.step(closure)

    score = logits.detach().double() + q.log()  # as `ranker_score` ranks
    torch.testing.assert_close(score.softmax(dim=0), choice, rtol=1e-3, atol=1e-3)
