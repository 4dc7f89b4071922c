"""A mode freezes a part by name, for good, or says why it cannot."""

import pytest
import torch
from torch import nn

from recsys.errors import TrainingError, UsageError
from recsys.training.modes import apply_training_mode
from tests.training.small_run import gated_ranker


def test_end_to_end_leaves_every_parameter_learning():
    ranker = gated_ranker()

    assert apply_training_mode(ranker, "end_to_end") == ()
    assert all(parameter.requires_grad for parameter in ranker.parameters())
    assert all(module.training for module in ranker.modules())


def test_a_frozen_tower_asks_for_no_gradient_and_stays_in_evaluation_mode():
    ranker = gated_ranker()

    assert apply_training_mode(ranker, "frozen_tower") == ("embedding_tower",)
    ranker.train()

    assert not any(parameter.requires_grad for parameter in ranker.embedding_tower.parameters())
    assert not any(module.training for module in ranker.embedding_tower.modules())
    assert all(parameter.requires_grad for parameter in ranker.interaction_network.parameters())
    assert ranker.head.training


def test_a_gradient_from_before_the_freeze_is_forgotten():
    ranker = gated_ranker()
    for parameter in ranker.parameters():
        parameter.grad = torch.ones_like(parameter)

    apply_training_mode(ranker, "frozen_tower")

    assert all(parameter.grad is None for parameter in ranker.embedding_tower.parameters())


def test_an_unknown_mode_is_refused():
    with pytest.raises(UsageError, match="`thawed` is unknown; expected by_segment, end_to_end, "):
        apply_training_mode(gated_ranker(), "thawed")


def test_a_tower_that_cannot_run_without_a_graph_is_refused():
    with pytest.raises(TrainingError, match="A Linear has no `is_frozen`"):
        apply_training_mode(nn.ModuleDict({"embedding_tower": nn.Linear(1, 1)}), "frozen_tower")


def test_a_tower_that_train_would_thaw_is_refused():
    tower = nn.Sequential(nn.BatchNorm1d(2))
    tower.is_frozen = False

    with pytest.raises(TrainingError, match=r"goes back to training mode with `ranker\.train\(\)`"):
        apply_training_mode(nn.ModuleDict({"embedding_tower": tower}), "frozen_tower")
