"""The ordinal loss on small numbers."""

import math

import pytest
import torch

from recsys.training.objectives.ordinal import ordinal_loss


def test_every_threshold_has_the_log_loss_of_its_own_question() -> None:
    # Logits of log 3 say 3/4: right of the first threshold alone, as the grade of 2 is above 1 and not above 3.
    outputs = torch.full((1, 1, 2), math.log(3))

    loss = ordinal_loss(outputs, torch.tensor([2.0]), torch.ones(1), (1.0, 3.0), (0.5, 2.0))

    assert loss.item() == pytest.approx(0.5 * math.log(4 / 3) + 2 * math.log(4))


def test_a_grade_at_the_threshold_is_not_above_it() -> None:
    loss = ordinal_loss(torch.tensor([[[-math.log(3)]]]), torch.tensor([3.0]), torch.ones(1), (3.0,), (1.0,))

    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_rows_weigh_and_members_have_a_loss_each() -> None:
    outputs = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    grade, weight = torch.tensor([5.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 2.0])

    whole = ordinal_loss(outputs, grade, weight, (1.0, 3.0), (1.0, 0.5))

    rows = [
        ordinal_loss(
            outputs[row : row + 1, member : member + 1], grade[row : row + 1], torch.ones(1), (1.0, 3.0), (1.0, 0.5)
        )
        for row in (0, 2)
        for member in (0, 1)
    ]
    torch.testing.assert_close(whole, ((rows[0] + rows[1]) / 2 + 2 * (rows[2] + rows[3]) / 2) / 3)


def test_rows_of_no_weight_cost_nothing() -> None:
    outputs = torch.zeros(2, 1, 1, requires_grad=True)
    loss = ordinal_loss(outputs, torch.tensor([1.0, 2.0]), torch.zeros(2), (1.0,), (1.0,))
    loss.backward()

    assert loss.item() == 0
    assert not outputs.grad.any()
