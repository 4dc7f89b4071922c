"""Every known way to break a freeze: planted, it fails the proof by name; left to the project's own code, it fails.

The counterparts, in which the project's own training takes the same temptation and nothing moves, are next to each
planted fault, or in `tests/method/test_frozen_tower_is_unchanged.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import DataError, TrainingError
from recsys.features.batch import Batch
from recsys.monitoring.frozen_proof import FrozenProof, frozen_parts
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.towers.embedding import EmbeddingTower
from recsys.training.modes import FROZEN_TOWER, apply_training_mode
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.restless_tower import restless_ranker
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import load_whole_state
from tests.small_model import ROWS, batch_of, small_contract, two_tower_spec
from tests.training.saved_runs import resume_run, save_run
from tests.training.small_run import SmallRun, gated_ranker, small_run

TABLE = r"`embedding_tower\.ebc\.embedding_bags\.tower_\w+\.weight \(rows 0-\d, columns 0-4\)` changed"


@pytest.fixture
def run(context) -> SmallRun:
    return small_run(context, FROZEN_TOWER, ranker=restless_ranker(), weight_decay=0.5)


def proof_of(run: SmallRun) -> FrozenProof:
    return FrozenProof(run.ranker, run.optimizers.local_state)


def tower_of(run: SmallRun) -> nn.Module:
    return run.ranker.module.embedding_tower


def weight_of(run: SmallRun) -> nn.Parameter:
    return tower_of(run).user_side[0][0].weight


# Batch normalisation and dropout left in training mode


@pytest.mark.parametrize(("position", "named"), [(0, r"restless\.0"), (1, r"restless\.1")])
def test_a_layer_left_in_training_mode_fails_the_first_forward_pass_by_name(run, position, named) -> None:
    """Dropout in training mode moves no bit at all: a digest alone would call the part still."""
    proof_of(run)
    tower = tower_of(run)
    tower.train = lambda mode=True: tower.restless[position].train(mode)  # what a part's own train() may do

    with pytest.raises(TrainingError, match=rf"`embedding_tower\.{named}` is in training mode"):
        run.train(1)


def test_a_part_in_training_mode_is_refused_before_the_first_step(run) -> None:
    tower_of(run).restless[1].training = True

    with pytest.raises(TrainingError, match=r"`embedding_tower\.restless\.1` is in training mode"):
        proof_of(run)


def test_tables_put_in_the_place_of_the_frozen_ones_fail_the_proof(run) -> None:
    proof = proof_of(run)

    tower_of(run).ebc = restless_ranker().embedding_tower.ebc.requires_grad_(False).eval()

    with pytest.raises(TrainingError, match="the tables of `embedding_tower` were replaced"):
        proof.record()


def test_batch_statistics_that_moved_unwatched_fail_the_proof(run) -> None:
    proof = proof_of(run)
    normalisation = tower_of(run).restless[0]

    normalisation.train()(torch.randn(4, normalisation.num_features))
    normalisation.eval()

    with pytest.raises(TrainingError, match=r"`embedding_tower\.restless\.0\.num_batches_tracked` changed, and 2 more"):
        proof.record()


def test_the_projects_loop_never_runs_a_frozen_layer_in_training_mode(run) -> None:
    seen: set[bool] = set()
    for layer in tower_of(run).restless:
        layer.register_forward_pre_hook(lambda module, _: seen.add(module.training))

    run.train(4, validate_every=2)

    assert seen == {False}


# Weight decay, and momentum from before the freeze


def step_by_weight_decay(run: SmallRun) -> None:
    """A gradient of zero, as a `zero_grad` that fills in zeros leaves behind, is enough for decay."""
    weight_of(run).grad = torch.zeros_like(weight_of(run))
    torch.optim.AdamW([weight_of(run)], lr=0.1, weight_decay=0.1).step()
    weight_of(run).grad = None


def step_by_momentum(run: SmallRun) -> None:
    optimizer = torch.optim.SGD([weight_of(run)], lr=0.1, momentum=0.9)
    with torch.no_grad():
        kept = weight_of(run).clone()
        weight_of(run).grad = torch.ones_like(kept)
        optimizer.step()  # before the freeze
        weight_of(run).copy_(kept)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()  # after it, with a gradient of zero
    weight_of(run).grad = None


@pytest.mark.parametrize("step", [step_by_weight_decay, step_by_momentum])
def test_an_optimizer_that_still_holds_a_frozen_weight_fails_the_proof(run, step: Callable[[SmallRun], None]) -> None:
    proof = proof_of(run)

    step(run)

    with pytest.raises(TrainingError, match=r"`embedding_tower\.user_side\.0\.0\.weight` changed"):
        proof.record()


def test_a_gradient_left_on_a_frozen_weight_fails_the_proof_before_anything_moved(run) -> None:
    proof = proof_of(run)
    weight_of(run).grad = torch.zeros_like(weight_of(run))

    with pytest.raises(TrainingError, match=r"`embedding_tower\.user_side\.0\.0\.weight` holds a gradient"):
        proof.record()


def test_the_projects_optimizers_hold_nothing_of_a_frozen_part(run) -> None:
    """So no decay, no momentum and no gradient of theirs can reach it, whatever it carries from before."""
    for parameter in inventory_of(tower_of(run)).dense_parameters().values():
        parameter.grad = torch.ones_like(parameter)
    before = whole_state(tower_of(run))

    run.optimizers.step(torch.tensor(True))

    held = {id(parameter) for parameter in run.optimizers.dense_parameters}
    assert not [p for p in inventory_of(tower_of(run)).dense_parameters().values() if id(p) in held]
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole_state(tower_of(run)).items())


# Fused tables: deaf to `requires_grad`, and not still at a rate of 0


class DeafTower(EmbeddingTower):
    """Knows that it is frozen, sets `requires_grad=False`, and runs its forward pass with a graph all the same."""

    def __init__(self) -> None:
        super().__init__(two_tower_spec(), small_contract())

    def look_up(self, batch: Batch) -> list[Tensor] | None:
        return self._thawed(super().look_up, batch)

    def forward(self, batch: Batch, rows: Tensor | None = None, looked_up: Sequence[Tensor] | None = None) -> Tensor:
        return self._thawed(super().forward, batch, rows, looked_up)

    def _thawed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.is_frozen = False
        try:
            return call(*arguments)
        finally:
            self.is_frozen = True


def deaf_run(context, tower_tables: TableOptimizer | None):
    ranker = gated_ranker()
    ranker.embedding_tower = DeafTower()
    apply_training_mode(ranker, FROZEN_TOWER)
    assert not ranker.embedding_tower.ebc.embedding_bags["tower_item_id"].weight.requires_grad
    sgd = TableOptimizer("sgd", 0.1)
    return wrap_ranker(ranker, {"embedding_tower": tower_tables, "interaction_network": sgd, "head": sgd}, context)


def test_a_fused_table_that_was_frozen_by_requires_grad_fails_the_proof(context) -> None:
    wrapped = deaf_run(context, TableOptimizer("rowwise_adagrad", 0.1))
    proof = FrozenProof(wrapped, dict)
    for hook in proof._hooks:  # blind the watch: what moved must show by itself
        hook.remove()
    batch = batch_of(ROWS)

    log_loss_objective(wrapped.module, batch).backward()

    with pytest.raises(TrainingError, match=TABLE):
        proof.record()


def test_a_frozen_part_that_runs_with_a_graph_fails_in_the_first_forward_pass(context) -> None:
    wrapped = deaf_run(context, TableOptimizer("rowwise_adagrad", 0.1))
    FrozenProof(wrapped, dict)

    with pytest.raises(TrainingError, match="`embedding_tower` ran its forward pass with a graph"):
        wrapped(batch_of(ROWS))


def test_a_rate_of_zero_and_one_infinite_gradient_fail_the_proof(context) -> None:
    """0 times infinity is NaN: the rows are lost at a learning rate of 0."""
    wrapped = deaf_run(context, None)  # its kernel is attached to SGD at rate 0
    proof = FrozenProof(wrapped, dict)
    for hook in proof._hooks:
        hook.remove()
    before = whole_state(wrapped)

    (log_loss_objective(wrapped.module, batch_of(ROWS)) * math.inf).backward()

    assert any(shard.weight.isnan().any() for shard in inventory_of(wrapped.module.embedding_tower).shards())
    with pytest.raises(TrainingError, match=TABLE):
        proof.record()
    load_whole_state(wrapped, before)
    proof.record()  # a NaN that is taken back leaves no trace


def test_infinite_gradients_reach_nothing_of_a_frozen_tower_in_the_projects_loop(run) -> None:
    """No graph leads there, and the step that holds one is withheld from every other part too."""
    proof, before = proof_of(run), whole_state(run.ranker)

    run.train(2, lambda ranker, batch: log_loss_objective(ranker, batch) * math.inf)

    assert run.state.non_finite_batches == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole_state(run.ranker).items())
    assert proof.record()["embedding_tower"]["is_unchanged"]


# Writers: averages and checkpoints


def test_a_moving_average_that_writes_back_fails_the_proof(run) -> None:
    """0.999 x + 0.001 x is not x: rounding moves a weight whose average never moved."""
    proof = proof_of(run)
    average = {name: p.detach().clone() for name, p in inventory_of(tower_of(run)).dense_parameters().items()}

    for _ in range(3):
        for name, parameter in inventory_of(tower_of(run)).dense_parameters().items():
            average[name] = 0.999 * average[name] + 0.001 * parameter.detach()
            parameter.data.copy_(average[name])

    with pytest.raises(TrainingError, match=r"`embedding_tower\..+` changed"):
        proof.record()


def test_writing_the_best_weights_back_leaves_a_frozen_tower_as_it_was(run) -> None:
    proof = proof_of(run)
    run.log_losses = [0.4, 0.3, 0.5, 0.6]

    run.train(4, validate_every=1)
    run.best.restore()

    assert run.state.best_step == 2
    assert proof.record()["embedding_tower"]["is_unchanged"]


def test_best_weights_of_another_tower_fail_the_proof(run) -> None:
    proof = proof_of(run)
    run.train(1, validate_every=1)

    run.best.parts()["embedding_tower.user_side.0.0.weight"].pieces[0].tensor.add_(1e-6)
    run.best.restore()

    with pytest.raises(TrainingError, match=r"`embedding_tower\.user_side\.0\.0\.weight` changed"):
        proof.record()


def test_a_checkpoint_of_a_run_that_trained_the_tower_is_refused_before_a_weight_is_read(
    run, context, tmp_path
) -> None:
    proof = proof_of(run)
    trained = small_run(context, ranker=restless_ranker())
    trained.train(2)
    save_run(trained, tmp_path)

    with pytest.raises(DataError, match=r"holds `embedding_tower\.\S+`, which no optimizer here keeps"):
        resume_run(run, tmp_path)

    assert proof.record()["embedding_tower"]["is_unchanged"]


def test_a_checkpoint_of_the_same_run_leaves_the_proof_as_it_is(run, tmp_path) -> None:
    proof = proof_of(run)
    run.train(2)
    save_run(run, tmp_path)
    run.train(3)

    resume_run(run, tmp_path)

    assert proof.record()["embedding_tower"]["is_unchanged"]
    assert frozen_parts(run.ranker) == ("embedding_tower",)


def test_a_load_that_thaws_fails_the_next_forward_pass_and_the_proof(run) -> None:
    proof = proof_of(run)

    tower_of(run).is_frozen = False

    with pytest.raises(TrainingError, match="`embedding_tower` was thawed"):
        run.train(1)
    with pytest.raises(TrainingError, match="`embedding_tower` was thawed"):
        proof.record()


def test_a_load_that_asks_for_gradients_again_fails_the_proof(run) -> None:
    proof = proof_of(run)

    weight_of(run).requires_grad_(True)

    with pytest.raises(TrainingError, match=r"`embedding_tower\.user_side\.0\.0\.weight` asks for a gradient"):
        proof.record()


def test_a_part_may_be_thawed_once_its_proof_is_closed(run) -> None:
    proof = proof_of(run)
    run.train(1)
    proof.record()

    proof.close()
    tower_of(run).is_frozen = False
    run.train(2)

    assert proof.record() == {}


# One half of a tower, while the other learns


def move_a_layer(run: SmallRun) -> None:
    weight_of(run).data[0, 0] += 1e-6


def move_a_row(run: SmallRun) -> None:
    inventory_of(tower_of(run)).shards()[0].weight[0, 0] += 1e-6


@pytest.mark.parametrize(
    ("mode", "still", "fault", "named"),
    [
        (
            "tower_tables",
            "embedding_tower.user_side",
            move_a_layer,
            r"`embedding_tower\.user_side\.0\.0\.weight` changed",
        ),
        ("tower_dense", "embedding_tower.ebc", move_a_row, r"`embedding_tower\.ebc\.embedding_bags\.tower_.+` changed"),
    ],
)
def test_the_frozen_half_is_proven_unchanged_while_the_other_half_learns(context, mode, still, fault, named) -> None:
    run = small_run(context, mode, ranker=restless_ranker(), weight_decay=0.5)
    proof = proof_of(run)
    before = whole_state(tower_of(run))

    run.train(4)

    record = proof.record()
    assert record[still]["is_unchanged"]
    halves = {
        name.startswith("ebc.") for name, t in whole_state(tower_of(run)).items() if not torch.equal(t, before[name])
    }
    assert halves == {mode == "tower_tables"}
    fault(run)
    with pytest.raises(TrainingError, match=named):
        proof.record()


# Several processes


def proven_together(context) -> dict:
    """Train with the tower frozen, then move one row of a table that the second process alone holds."""
    run = small_run(context, FROZEN_TOWER)
    proof = proof_of(run)
    run.train(2)
    clean = proof.record()["embedding_tower"]
    if context.rank == 1:
        inventory_of(tower_of(run)).shards()[0].weight[0, 0] += 1e-6
    return {"clean": clean, "moved": message_of(proof.record), "differing": message_of(lambda: half_frozen(context))}


def half_frozen(context) -> None:
    ranker = gated_ranker()
    if context.rank == 0:
        apply_training_mode(ranker, FROZEN_TOWER)
    FrozenProof(ranker, dict)


def message_of(action: Callable[[], object]) -> str:
    with pytest.raises(TrainingError) as raised:
        action()
    return str(raised.value)


def test_every_process_proves_its_own_pieces_and_hears_of_every_others(tmp_path) -> None:
    first, second = run_in_two(proven_together, tmp_path)

    assert first == second
    zero, one = first["clean"]["processes"]
    assert zero["digest_before"] == zero["digest_after"] != one["digest_before"]  # each holds other tables
    assert first["clean"]["digest_before"] == first["clean"]["digest_after"]
    assert "`embedding_tower.ebc.embedding_bags.tower_" in first["moved"]
    assert "changed (process 1)" in first["moved"]
    assert "disagree on what is frozen: [['embedding_tower'], []]" in first["differing"]
