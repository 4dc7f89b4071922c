"""An adapter changes no first logit, learns in the frozen tower's place, and belongs to the composition."""

import pytest
import torch

from recsys.composition.adapter import LowRankAdapter
from recsys.sharding.whole_state import whole_state
from recsys.training.modes import apply_training_mode
from tests.composition.test_compositions import COMPOSITIONS, ROUTES, ranker_with
from tests.small_model import ROWS, TOWER_WIDTH, batch_of
from tests.training.small_run import small_run

RANK = 2


def adapted(name: str) -> torch.nn.Module:
    ranker = ranker_with(name)
    torch.manual_seed(3)
    ranker.composition.tower_adapter = LowRankAdapter(3 * TOWER_WIDTH, RANK)
    return ranker


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_fresh_adapter_changes_no_logit(name: str) -> None:
    plain = ranker_with(name)

    assert torch.equal(adapted(name)(batch_of(ROWS)), plain(batch_of(ROWS)))


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_an_adapter_that_learned_changes_the_logits(name: str) -> None:
    ranker = adapted(name)
    before = ranker(batch_of(ROWS))
    torch.nn.init.constant_(ranker.composition.tower_adapter.up.weight, 0.1)

    assert not torch.allclose(ranker(batch_of(ROWS)), before)


def test_the_correction_is_of_its_rank_and_by_hand() -> None:
    adapter = LowRankAdapter(width=2, rank=1)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 2.0]]))
        adapter.up.weight.copy_(torch.tensor([[10.0], [100.0]]))

    # A x = 1 * 3 + 2 * 5 = 13
    assert adapter(torch.tensor([[3.0, 5.0]])).tolist() == [[3.0 + 130.0, 5.0 + 1300.0]]


@pytest.mark.parametrize("name", ["concat", "conditional route"])
def test_the_adapter_learns_while_the_tower_is_frozen(context, name: str) -> None:
    run = small_run(context, "frozen_tower", ranker=adapted(name))
    ranker = run.ranker.module
    tower = whole_state(ranker.embedding_tower)
    first = ranker.composition.tower_adapter.up.weight.clone()

    reports = run.train(3)

    assert not torch.equal(ranker.composition.tower_adapter.up.weight, first)
    assert all(torch.equal(tensor, whole_state(ranker.embedding_tower)[name]) for name, tensor in tower.items())
    assert reports[-1].gradient_norms["embedding_tower"] == 0.0
    lines = [line for line in run.optimizers.contract() if "tower_adapter" in line.parameter]
    assert {(line.part, line.optimizer) for line in lines} == {("composition", "adamw")}


def test_without_a_row_that_passes_the_tower_its_adapter_gets_no_gradient() -> None:
    ranker = adapted("conditional route")
    apply_training_mode(ranker, "frozen_tower")
    batch = batch_of([row for row in ROWS if "embedding_tower" not in ROUTES[row.segment]])

    ranker(batch).sum().backward()

    assert all(parameter.grad is None for parameter in ranker.composition.tower_adapter.parameters())


def test_the_audit_expects_the_adapter_where_the_tower_is_passed() -> None:
    routed, joined = adapted("conditional route"), adapted("concat")

    reaches = [("composition.tower_adapter" in routed.reached_by(segment)) for segment in range(len(ROUTES))]

    assert reaches == ["embedding_tower" in route for route in ROUTES]
    assert "composition.tower_adapter" in joined.reached_by(0)
