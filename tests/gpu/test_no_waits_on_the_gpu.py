"""What `tests/training/test_no_host_waits.py` counts on a CPU, asked of the GPU: torch raises where a step waits."""

import pytest
import torch

from recsys.composition.own_draws import with_own_draws
from recsys.training.modes import FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.method.lower_precision import small
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS
from tests.sharding.small_rows import open_small_rows
from tests.small_model import ROWS, batch_of
from tests.training.small_run import small_run

pytestmark = pytest.mark.gpu


def train_without_waiting(context, root, composition, mode="end_to_end", **settings):
    def objective(ranker, batch):
        # The first epoch fills what is kept from then on; the last step is followed by a validation.
        torch.cuda.set_sync_debug_mode("error" if epoch <= run.state.step < 2 * epoch else "default")
        return log_loss_objective(ranker, batch)

    run = small_run(context, mode, ranker=small(composition, "cross", seed=0))
    run.stream.batches = [*open_small_rows(root, context.device)]
    epoch = len(run.stream.batches)
    try:
        run.train(2 * epoch + 1, objective, report_seconds=1e9, norms_every=1000, **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("composition", ["sequential", *COMPOSITIONS])
def test_no_design_makes_the_host_wait(context, tmp_path, composition):
    train_without_waiting(context, tmp_path, composition)


@pytest.mark.parametrize("mode", [FROZEN_TOWER, TOWER_TABLES, TOWER_DENSE])
def test_no_training_mode_makes_the_host_wait(context, tmp_path, mode):
    train_without_waiting(context, tmp_path, "conditional route and experts", mode)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_neither_clipping_nor_lower_precision_makes_the_host_wait(context, tmp_path, precision):
    train_without_waiting(context, tmp_path, "conditional gate", max_gradient_norm=0.1, precision=precision)


def test_a_tower_that_draws_numbers_of_its_own_does_not_make_the_host_wait(context):
    dropout, vectors = torch.nn.Dropout(0.5), torch.ones(6, 4, device=context.device)
    batch = batch_of(ROWS).to(context.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with_own_draws(lambda _, rows=None: dropout(vectors))(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
