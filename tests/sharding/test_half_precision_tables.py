"""Tables of half precision: rounded weights, and all else as it is; every bit of them is kept, and they learn."""

import copy

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.monitoring.gradient_norms import gradient_norms
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import table_weights, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of, norms_by_hand
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import load_table_optimizer_state, load_whole_state, table_optimizer_state
from tests.training.small_run import small_run

ROWWISE = TableOptimizer("rowwise_adagrad", 0.1)
BOTH = {"embedding_tower": ROWWISE, "interaction_network": ROWWISE}


def half(context, optimizers=BOTH, sharding=None, seed=0):
    return wrap_ranker(TwoParts(PoolingType.SUM, seed=seed), optimizers, context, sharding, table_precision="float16")


def rounded(plain):
    """The plain model with the numbers that half-precision tables hold."""
    for name, parameter in plain.named_parameters():
        if "embedding_bags" in name:
            parameter.data = parameter.data.half().float()
    return plain


def learnt(wrapped, steps=3):
    for step in range(steps):
        loss_of(wrapped, keyed_ids(BAGS[step % 2])).backward()
    return wrapped


def test_they_score_and_their_gradients_are_as_those_of_a_plain_model_with_rounded_weights(context):
    plain, wrapped = rounded(TwoParts(PoolingType.SUM)), half(context)
    gate = TableGate(wrapped)
    loss = loss_of(wrapped, keyed_ids(BAGS[0]))
    expected = loss_of(plain, keyed_ids(BAGS[0]))
    loss.backward()
    expected.backward()

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradient_norms(wrapped, gate, context) == pytest.approx(norms_by_hand(plain), rel=1e-5)
    assert {gradient.dtype for gradient in gate.gradients()} == {torch.float32}


def test_an_update_is_made_in_single_precision_and_then_rounded(context):
    plain, wrapped = rounded(TwoParts(PoolingType.SUM)), half(context, dict.fromkeys(BOTH, TableOptimizer("sgd", 0.5)))
    loss_of(plain, keyed_ids(BAGS[0])).backward()

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    for name, weight in table_weights(wrapped).items():
        expected = plain.get_parameter(name) - 0.5 * plain.get_parameter(name).grad
        assert weight.dtype == torch.float16
        # A CPU's kernel rounds to nearest; a sum taken in another order may fall to the other side of a half.
        assert torch.allclose(weight.float(), expected, rtol=2**-11 * 1.01, atol=1e-7), name


def test_weights_and_state_come_out_and_go_in_bit_for_bit(context):
    wrapped, other = learnt(half(context)), half(context, seed=1)
    state, accumulators = whole_state(wrapped), table_optimizer_state(wrapped)

    load_whole_state(other, state)
    load_table_optimizer_state(other, accumulators)

    assert {state[name].dtype for name in inventory_of(wrapped).tables} == {torch.float16}
    assert {tensor.dtype for tensor in accumulators.values()} == {torch.float32}
    learnt(wrapped), learnt(other)
    for name, tensor in (whole_state(wrapped) | table_optimizer_state(wrapped)).items():
        assert torch.equal(tensor, (whole_state(other) | table_optimizer_state(other))[name]), name


def test_a_plain_model_takes_their_weights_without_a_change(context):
    wrapped, plain = learnt(half(context)), TwoParts(PoolingType.SUM, seed=1)

    load_whole_state(plain, whole_state(wrapped))

    for name, weight in table_weights(wrapped).items():
        assert torch.equal(plain.get_parameter(name), weight.float())
    assert plain(keyed_ids(BAGS[0])).tolist() == pytest.approx(wrapped(keyed_ids(BAGS[0])).tolist(), abs=1e-6)


def test_a_frozen_table_keeps_every_bit_that_it_came_with(context):
    plain = TwoParts(PoolingType.SUM)
    frozen = copy.deepcopy(plain)
    frozen.embedding_tower.is_frozen = True

    wrapped = wrap_ranker(frozen, {**BOTH, "embedding_tower": None}, context, table_precision="float16")

    types = {name.split(".")[0]: weight.dtype for name, weight in table_weights(wrapped).items()}
    assert types == {"embedding_tower": torch.float32, "interaction_network": torch.float16}
    for name, weight in table_weights(wrapped).items():
        if name.startswith("embedding_tower."):
            assert torch.equal(weight, plain.get_parameter(name))


def whole_in_two(context):
    kinds = {"embedding_tower": "row_wise", "interaction_network": "table_wise"}
    wrapped = half(context, sharding=kinds)
    # Every process looks up the same bags, so that the mean of the processes' gradients is one's.
    return {name: weight.tolist() for name, weight in table_weights(learnt(wrapped)).items()}


def test_two_processes_put_them_together_to_the_bit(tmp_path, context):
    alone = {name: weight.tolist() for name, weight in table_weights(learnt(half(context))).items()}

    first, second = run_in_two(whole_in_two, tmp_path)

    assert first == second
    for name, weight in alone.items():
        # Rows are summed in another order: a number may fall to the other side of a half, and no further.
        assert torch.allclose(torch.tensor(first[name]), torch.tensor(weight), rtol=2**-9, atol=1e-6), name


def test_a_ranker_learns_with_them_as_with_single_precision(context):
    single, with_half = small_run(context), small_run(context, table_precision="float16")

    losses, expected = ([report.loss for report in run.train(30)] for run in (with_half, single))

    assert losses == pytest.approx(expected, abs=0.01)
    assert losses[-1] < 0.6 * losses[0]
