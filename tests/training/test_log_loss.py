"""The loss is the weighted mean of the rows' cross-entropies, in nats."""

import math

import pytest
import torch

from recsys.training.objectives.log_loss import weighted_log_loss


def test_the_loss_weighs_rows():
    # sigmoid(0) = 1/2 costs log 2; sigmoid(log 3) = 3/4 costs log(4/3) under label 1.
    logit, label = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, 1.0])

    loss = weighted_log_loss(logit, label, weight=torch.tensor([1.0, 3.0]))

    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / 4)


def test_a_row_of_weight_zero_teaches_nothing():
    logit = torch.tensor([0.3, -0.2], requires_grad=True)

    weighted_log_loss(logit, torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0])).backward()

    assert logit.grad[0] == 0
    assert logit.grad[1] != 0


def test_an_extreme_logit_costs_its_distance_and_stays_finite():
    loss = weighted_log_loss(torch.tensor([1000.0]), torch.tensor([0.0]), torch.tensor([1.0]))

    assert loss.item() == pytest.approx(1000.0)
