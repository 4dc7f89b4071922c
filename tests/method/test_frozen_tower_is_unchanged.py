"""A frozen tower keeps every bit: parameters, buffers, tables and optimizer state; and a proof that it did can fail.

The tower here has what usually betrays a freeze: batch normalisation (its statistics move without any gradient),
dropout, fused tables (deaf to `requires_grad`), and gradients and moments left from training before.
"""

import pytest
import torch

from recsys.errors import TrainingError
from recsys.monitoring.frozen_proof import FrozenProof
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import whole, whole_state
from tests.restless_tower import restless_ranker
from tests.training.small_run import gated_ranker, small_run

STEPS = 10


def proof_of(run) -> FrozenProof:
    return FrozenProof(run.ranker, run.optimizers.local_state)


def test_a_frozen_tower_keeps_every_bit_while_the_others_learn(context):
    run = small_run(context, "frozen_tower", ranker=restless_ranker(), weight_decay=0.5)
    before, proof = whole_state(run.ranker), proof_of(run)

    reports = run.train(STEPS)

    after = whole_state(run.ranker)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"interaction_network", "composition", "head"}
    record = proof.record()["embedding_tower"]
    assert record["is_unchanged"]
    assert record["digest_before"] == record["digest_after"]
    assert [report.gradient_norms["embedding_tower"] for report in reports] == [0.0] * STEPS


def test_end_to_end_moves_the_same_tower(context):
    """The counterpart: without freezing every one of these moves, so the test above can fail."""
    run = small_run(context, ranker=restless_ranker())
    before = whole_state(run.ranker)

    run.train(STEPS)

    still = {name for name, tensor in whole_state(run.ranker).items() if torch.equal(before[name], tensor)}
    assert still == set()


def test_a_tower_frozen_after_training_does_not_move_by_what_training_left(context):
    trained = small_run(context, ranker=restless_ranker())
    trained.train(3)  # leaves gradients, moments and accumulators
    ranker = restless_ranker()
    ranker.load_state_dict(whole_state(trained.ranker))
    for parameter in ranker.parameters():
        parameter.grad = torch.ones_like(parameter)
    run = small_run(context, "frozen_tower", ranker=ranker, weight_decay=0.5)
    proof = proof_of(run)

    run.train(STEPS)

    assert proof.record()["embedding_tower"]["is_unchanged"]


def test_no_optimizer_state_is_kept_for_a_frozen_tower(context):
    run = small_run(context, "frozen_tower")

    run.train(STEPS)

    assert not [name for name in whole(run.optimizers.parts()) if name.startswith("embedding_tower")]


def test_both_modes_start_from_the_same_logits(context):
    end_to_end, frozen = small_run(context), small_run(context, "frozen_tower")

    for batch in end_to_end.stream.batches:
        assert torch.equal(end_to_end.ranker(batch), frozen.ranker(batch))


def move_a_weight(run) -> None:
    run.ranker.module.embedding_tower.user_side[0][0].weight.data[0, 0] += 1e-6


def flip_a_zeros_sign(run) -> None:
    run.ranker.module.embedding_tower.restless[0].running_mean[0] = -0.0


def move_a_buffer(run) -> None:
    run.ranker.module.embedding_tower.restless[0].num_batches_tracked += 1


def move_a_table_row(run) -> None:
    inventory_of(run.ranker.module.embedding_tower).shards()[0].weight[0, 0] += 1e-6


@pytest.mark.parametrize(
    ("violate", "named"),
    [
        (move_a_weight, r"embedding_tower\.user_side\.0\.0\.weight"),
        (flip_a_zeros_sign, r"embedding_tower\.restless\.0\.running_mean"),
        (move_a_buffer, r"embedding_tower\.restless\.0\.num_batches_tracked"),
        (move_a_table_row, r"embedding_tower\.ebc\.embedding_bags\.tower_\w+\.weight \(rows 0-\d, columns 0-4\)"),
    ],
)
def test_the_proof_fails_and_names_what_moved(context, violate, named):
    run = small_run(context, "frozen_tower", ranker=restless_ranker())
    proof = proof_of(run)

    violate(run)

    with pytest.raises(TrainingError, match=rf"`embedding_tower` is not proven unchanged.*`{named}`"):
        proof.record()


def test_optimizer_state_that_appears_fails_the_proof(context):
    run, state = small_run(context, "frozen_tower"), {}
    proof = FrozenProof(run.ranker, lambda: state)

    state["embedding_tower.user_side.0.0.weight.exp_avg"] = torch.zeros(1)

    with pytest.raises(TrainingError, match=r"`optimizer: embedding_tower\.user_side\.0\.0\.weight\.exp_avg`"):
        proof.record()


def test_nothing_is_to_prove_where_nothing_is_frozen(context):
    run = small_run(context, ranker=gated_ranker())

    assert proof_of(run).record() == {}
