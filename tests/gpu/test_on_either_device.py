"""What must hold on a GPU as on a CPU: one body, run on whichever of them there is."""

from functools import partial

import pyarrow as pa
import pytest
import torch

from recsys.composition.conditional import SegmentRoutedComposition
from recsys.composition.own_draws import with_own_draws
from recsys.errors import DataError, TrainingError
from recsys.monitoring.gradient_norms import gradient_norms
from recsys.sharding.gate import TableGate
from recsys.sharding.processes import device_name
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.streaming.pools import background, prefetched
from recsys.towers import nearest
from recsys.tracking.system_metrics import SystemSampler
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.precision import set_single_products, uses_tf32
from tests.gpu.conftest import EITHER
from tests.method.lower_precision import NETWORKS, small
from tests.method.plain_ranker import ROUTES
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS
from tests.method.weighted_means import KINDS, assert_equal, take_steps, take_steps_by_hand
from tests.small_model import ROWS, batch_of, small_ranker
from tests.streaming.rows import open_stream, write_column
from tests.training.small_run import PARTS, Batches, small_run

on_either = pytest.mark.parametrize("context", EITHER, indirect=True)


def still_computes(device: torch.device) -> bool:
    """A device assert, for one, leaves a GPU that answers nothing any more."""
    return torch.ones(3, device=device).sum().item() == 3.0


@on_either
def test_the_device_is_named(context):
    assert device_name(context.device).startswith(context.device.type)


@on_either
@pytest.mark.parametrize("column", ["item_id", "recent"])
def test_an_id_outside_its_table_is_told_by_name_before_a_kernel_sees_it(context, tmp_path, column):
    ids = {
        "item_id": pa.array([0, 1, 8, 3, 4, 5], pa.int32()),
        "recent": pa.array([[], [1], [8], [], [3], []], pa.list_(pa.int32())),
    }
    write_column(tmp_path, {column: ids[column]})

    with pytest.raises(DataError, match=rf"column `{column}` holds 8 .* expected 0 to 7 \(table `item`\)"):
        list(open_stream(tmp_path, device=context.device))
    assert still_computes(context.device)


@on_either
def test_memory_that_runs_out_is_told_and_leaves_a_device_that_computes(context):
    def objective(ranker, batch):
        torch.empty(2**50, device=context.device)

    run = small_run(context)
    run.stream = Batches([batch_of(ROWS).to(context.device)])
    with pytest.raises(TrainingError, match=r"Out of memory in step 1 with 6 rows in the batch.* lower `train"):
        run.train(1, objective)
    assert still_computes(context.device)


@on_either
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_routed_rows_learn_in_every_precision_through_the_wrapper(context, precision):
    ranker = small_ranker(lambda p: SegmentRoutedComposition(p, ROUTES, [7]))
    run = small_run(context, ranker=ranker)
    run.stream = Batches([batch_of(ROWS).to(context.device)])

    losses = [report.loss for report in run.train(30, precision=precision)]

    assert losses[-1] < 0.6 * losses[0]
    # A float16 run may skip a step or two while its loss scale comes down from 65,536.
    assert run.state.non_finite_batches <= (3 if precision == "float16" else 0)


@on_either
def test_what_a_tower_draws_shifts_nothing_that_is_drawn_after_it(context):
    batch = batch_of(ROWS).to(context.device)
    draw = partial(torch.rand, 9, device=context.device)
    after = []
    for tower in (
        lambda _, rows=None: draw(),
        lambda _, rows=None: draw().zero_() + draw(),
        lambda _, rows=None: batch,
    ):
        torch.manual_seed(0)
        first, second = with_own_draws(tower)(batch), with_own_draws(tower)(batch)
        assert first is batch or not torch.equal(first, second)
        after.append(draw())
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])


@on_either
@pytest.mark.parametrize("composition", ["sequential", *COMPOSITIONS])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_design_has_the_plain_models_gradient_norms(context, composition, network):
    plain, ranker = small(composition, network, seed=0), small(composition, network, seed=0)
    wrapped = wrap_ranker(ranker, dict.fromkeys(PARTS, TableOptimizer("rowwise_adagrad", 0.1)), context)
    gate = TableGate(wrapped)
    log_loss_objective(plain, batch_of(ROWS)).backward()

    log_loss_objective(wrapped.module, batch_of(ROWS).to(context.device)).backward()
    norms = gradient_norms(wrapped, gate, context)
    gate.close()

    for part, child in plain.named_children():
        squares = [p.grad.double().square().sum() for p in child.parameters() if p.grad is not None]
        by_hand = torch.stack(squares).sum().sqrt().item()
        assert norms[part] == pytest.approx(by_hand, rel=1e-4, abs=1e-7), part


@pytest.mark.gpu  # on a CPU: tests/method
@pytest.mark.parametrize(("sharding", "rule"), KINDS)
def test_weighted_means_are_the_formulas(context, sharding, rule):
    assert_equal(take_steps(context, sharding, rule), take_steps_by_hand(rule, processes=1), rank=0)


@on_either
def test_the_best_candidates_are_those_of_one_matrix_of_all_scores(context, monkeypatch):
    monkeypatch.setattr(nearest, "_CANDIDATES_AT_ONCE", 7)
    draw = torch.Generator().manual_seed(0)
    # Whole numbers, so that no order of adding them up changes a score.
    user = torch.randint(-50, 50, (5, 3), generator=draw).float()
    candidates = torch.randint(-50, 50, (40, 3), generator=draw).float()

    _, best = nearest.nearest(user.to(context.device), candidates.to(context.device), k=11)

    scores = user @ candidates.T
    assert torch.equal(scores.gather(1, best.cpu()), scores.topk(11, dim=1).values)


@on_either
def test_background_threads_and_readings_are_of_the_device_that_computes(context):
    def current() -> int | None:
        return torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def devices():
        yield current()
        with background(1, "recsys-test") as executor:
            yield executor.submit(current).result()

    assert list(prefetched(devices(), depth=1)) == [current()] * 2
    assert ("system/gpu_memory_usage_megabytes" in SystemSampler().sample()) == torch.cuda.is_initialized()


@on_either
@pytest.mark.parametrize("matmul", ["highest", "tf32"])
def test_single_products_keep_the_bits_that_the_setting_promises(context, matmul):
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=draw, dtype=torch.float64) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    try:
        set_single_products(matmul, context.device)
        product = left.float().to(context.device) @ right.float().to(context.device)
        error = (product.cpu().double() - left @ right).norm() / (left @ right).norm()
        # TF32's factors have 11 bits, single precision's 24.
        assert error < (1e-3 if uses_tf32(context.device) else 1e-6)
        assert uses_tf32(context.device) == (matmul == "tf32" and context.device.type == "cuda")
    finally:
        torch.set_float32_matmul_precision(before)
