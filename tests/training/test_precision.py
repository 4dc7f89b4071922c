"""Half precision: gradients are unscaled before anybody looks at them, and a scale that is too large mends itself."""

import math

import numpy as np
import pytest
import torch

from recsys.composition.ranker import Head
from recsys.errors import TrainingError
from recsys.evaluation.split_evaluation import predict
from recsys.interactions.first_order import FirstOrder
from recsys.monitoring.gradient_norms import gradient_norms
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import average_dense_gradients
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.precision import START_SCALE, Precision, set_single_products, uses_tf32
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, SEGMENTS, batch_of, small_contract
from tests.training.small_run import Batches, small_run

LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}
YES, NO = torch.tensor(True), torch.tensor(False)


def unscaled_norms(context, dtype, rows):
    """Norms of the same forward pass in half precision, its loss never scaled."""
    run = small_run(context)
    gate = TableGate(run.ranker)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = log_loss_objective(run.ranker.module, batch_of(rows))
    loss.backward()
    average_dense_gradients(inventory_of(run.ranker).averaged_parameters(), context)
    norms = gradient_norms(run.ranker, gate, context)
    experts = {f"expert/{number}": f"expert/{name}" for number, name in enumerate(SEGMENTS)}
    return {experts.get(name, name): norm for name, norm in norms.items()}


@pytest.mark.parametrize("precision", LOWER)
def test_reported_norms_are_those_of_the_unscaled_gradient(context, precision):
    run = small_run(context)
    run.stream = Batches([batch_of(ROWS)])

    report = run.train(1, precision=precision)[0]

    assert report.gradient_norms == pytest.approx(unscaled_norms(context, LOWER[precision], ROWS), rel=1e-5)
    assert report.gradient_norms != pytest.approx(unscaled_norms(context, torch.float32, ROWS), rel=1e-5)


def norms_in_two(context, precision):
    rows = (ROWS[:3], ROWS[3:])[context.rank]
    run = small_run(context)
    run.stream = Batches([batch_of(rows)])
    return run.train(1, precision=precision)[0].gradient_norms, unscaled_norms(context, LOWER[precision], rows)


def test_two_processes_report_the_norms_of_the_unscaled_mean(tmp_path):
    (reported, unscaled), (reported_too, _) = run_in_two(norms_in_two, tmp_path, "float16")

    assert reported == reported_too == pytest.approx(unscaled, rel=1e-5)


@pytest.mark.parametrize("precision", LOWER)
def test_weights_stay_single_and_learn_as_in_single_precision(context, precision):
    single, half = small_run(context), small_run(context)
    started = whole_state(half.ranker)

    losses = [report.loss for report in half.train(30, precision=precision)]
    expected = [report.loss for report in single.train(30)]

    assert all(tensor.dtype == started[name].dtype for name, tensor in whole_state(half.ranker).items())
    assert losses == pytest.approx(expected, abs=0.05)  # bfloat16 has 8 bits: 0.4 % of a number near 1, many times over
    assert losses[-1] < 0.6 * losses[0]


def test_a_clipped_half_precision_step_moves_by_the_clipped_unscaled_gradient(context):
    limit = 0.1 * unscaled_norms(context, torch.float16, ROWS)["whole"]
    run = small_run(context, rate=0.05)
    run.stream = Batches([batch_of(ROWS)])
    run.train(1, precision="float16", max_gradient_norm=limit)

    # AdamW's first moment is a tenth of the gradient that it was given; a row's accumulator is the mean square of its
    # gradient's numbers, 4 in every table.
    state = whole(run.optimizers.parts())
    dense = sum(100 * tensor.square().sum().item() for name, tensor in state.items() if name.endswith("exp_avg"))
    tables = sum(4 * tensor.sum().item() for name, tensor in state.items() if name.endswith("weight.sum"))
    assert math.sqrt(dense + tables) == pytest.approx(limit, rel=1e-4)  # torch's clipping divides by the norm + 1e-6
    assert min(dense, tables) > 0


def test_a_scale_that_overflows_halves_until_it_fits_and_no_skipped_step_moves_anything(context):
    run, states = small_run(context, weight_decay=0.5), []
    run.stream = Batches([batch_of(ROWS)])

    def objective(ranker, batch):
        states.append({**whole_state(run.ranker), **whole(run.optimizers.parts())})
        # A gradient of thousands at the logits: times 65536 it is past float16's largest number, 65504.
        return 3000 * log_loss_objective(ranker, batch)

    reports = run.train(12, objective, precision="float16")

    skipped = run.state.non_finite_batches
    assert 3 <= skipped < 12  # more in a row than would end a run whose scale cannot be lowered
    assert run.state.loss_scale == START_SCALE / 2**skipped
    assert all(torch.equal(tensor, states[skipped][name]) for name, tensor in states[0].items())
    assert not all(torch.equal(tensor, states[skipped + 1][name]) for name, tensor in states[skipped].items())
    assert [report.gradient_norms == {} for report in reports] == [step < skipped for step in range(12)]


def test_a_loss_that_is_not_finite_still_ends_the_run(context):
    run = small_run(context)

    with pytest.raises(TrainingError, match="steps 1 to 3 gave a loss or gradient that is not finite"):
        run.train(10, lambda ranker, batch: log_loss_objective(ranker, batch) * math.nan, precision="float16")


def test_the_scale_doubles_after_two_thousand_finite_steps_and_halves_down_to_one(context):
    precision = Precision("float16", scale=1024.0, clean_steps=1998, device=context.device)

    seen = []
    for keep in (YES, YES, YES, NO):
        precision.update(keep)
        seen.append(precision.state())
    for _ in range(20):
        precision.update(NO)

    assert seen == [(1024.0, 1999), (2048.0, 0), (2048.0, 1), (1024.0, 0)]
    assert precision.state() == (1.0, 0)
    assert not precision.can_lower_scale()


@pytest.mark.parametrize("dtype", LOWER.values(), ids=LOWER)
def test_scores_are_single_whatever_the_layers_compute_in(dtype):
    torch.manual_seed(0)
    batch, first_order = batch_of(ROWS), FirstOrder(small_contract())
    head = Head(input_width=4, hidden_widths=[8], dropout=0.0, first_order=first_order)
    first_order.load_logistic([0.3, -0.7], {"user_id": torch.linspace(-1, 1, 5)})
    joined = torch.randn(len(batch), 4)

    with torch.autocast("cpu", dtype=dtype):
        hidden = head.hidden(joined)
        logit = head(joined, batch)

    assert (hidden.dtype, logit.dtype) == (dtype, torch.float32)
    assert torch.equal(logit, head.output(hidden.float()).squeeze(1) + first_order(batch))


def test_validations_are_single_in_a_run_of_lower_precision(context):
    run, seen = small_run(context), []

    def validate():
        seen.append((torch.is_autocast_enabled("cpu"), predict(run.ranker.module, [batch_of(ROWS)]).logit))
        return {"log_loss": 0.5}

    run.validated = validate
    run.train(2, precision="bfloat16", validate_every=2)

    ((is_lower, logit),) = seen
    assert not is_lower
    assert logit.dtype == np.float32
    with torch.no_grad():
        assert logit.tolist() == run.ranker.module.eval()(batch_of(ROWS)).tolist()


@pytest.fixture
def products():
    """Torch's setting, given back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield torch.get_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("matmul", "device", "setting", "tf32"),
    [("highest", "cuda", "highest", False), ("tf32", "cuda", "high", True), ("tf32", "cpu", "highest", False)],
)
def test_single_products_are_exact_but_on_a_gpu_that_is_told_otherwise(products, matmul, device, setting, tf32):
    set_single_products(matmul, torch.device(device))

    assert products() == setting
    assert uses_tf32(torch.device(device)) == tf32


def test_the_next_run_of_a_process_is_exact_again(products):
    for matmul in ("tf32", "highest"):
        set_single_products(matmul, torch.device("cuda"))

    assert products() == "highest"


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_other_precisions_have_no_scale(context, name):
    precision = Precision(name, START_SCALE, 0, context.device)
    precision.update(NO)

    assert precision.state() == (1.0, 0)
    assert precision.scaled(torch.tensor(2.0)) == 2.0
    assert not precision.can_lower_scale()
