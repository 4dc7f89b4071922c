"""An ordinary step asks the device nothing: for every composition, in every mode, with norms and clipping or without.

Run on the CPU, on the branches that a GPU takes, over batches as the stream makes them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from recsys.composition.adapter import LowRankAdapter
from recsys.composition.conditional import SegmentRoutedComposition
from recsys.composition.ranker import Head
from recsys.features.batch import Batch
from recsys.features.graded import GRADE
from recsys.sharding import gate, row_gradients
from recsys.sharding.input_ahead import InputAhead
from recsys.training import optimizer, step
from recsys.training.cache import TowerCache
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.objectives.listwise import QUERY
from recsys.training.stages import TrainingStage
from recsys.training.step import Counts, Stepper, StepSettings
from recsys.training.weight_average import WeightAverage
from tests.method.lower_precision import small
from tests.method.plain_ranker import ROUTES
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS
from tests.method.test_objectives_equal_a_plain_model import OBJECTIVES
from tests.sharding.small_rows import open_small_rows
from tests.small_model import SEGMENTS, small_ranker
from tests.towers.eventful_rows import EVENTFUL, eventful_batch, eventful_ranker
from tests.training.host_waits import host_waits
from tests.training.small_run import SmallRun, small_run, staged_run

ALL = ["sequential", *COMPOSITIONS]
# What the kernels read of tensors that they keep on the host: how often they were called, and their features' widths.
_KERNELS = "fbgemm_gpu's split_table_batched_embeddings_ops_training.py"
_ALLOWED = {
    f"{read} in recsys/features/batch.py:look_up ({_KERNELS}:{function})"
    for read, function in [
        ("cpu", "_generate_vbe_metadata"),
        *((read, "forward") for read in ("cpu", "item", "_local_scalar_dense")),
    ]
}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gate, optimizer, row_gradients, step):
        monkeypatch.setattr(module, "reads_without_waiting", lambda device: False)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    stream = open_small_rows(tmp_path_factory.mktemp("rows"), torch.device("cpu"))
    return [*stream][:3]


def waits_of(
    run: SmallRun,
    batches: list[Batch],
    objective: Callable[[nn.Module, Batch], Tensor] = log_loss_objective,
    *,
    limit: float | None = None,
    with_norms: bool = False,
    precision: str = "float32",
) -> Counter[str]:
    """Take three steps; return what the last one waits for: the first ones make what is kept from then on."""
    settings = StepSettings(
        max_gradient_norm=limit, precision=precision, segment_view_every=0, segments=tuple(SEGMENTS)
    )
    stepper = Stepper(run.ranker, run.optimizers, objective, settings, run.context, Counts())
    run.ranker.train()
    for number, batch in enumerate(batches):
        with host_waits() as found:
            stepper.take_step(number, replace(batch), with_norms=with_norms, with_segments=False)
    stepper.close()
    assert stepper.send_numbers()().losses == len(batches)
    return Counter({wait: times for wait, times in found.items() if wait not in _ALLOWED})


@pytest.mark.parametrize("composition", ALL)
def test_no_design_makes_the_host_wait(context, batches, composition):
    run = small_run(context, ranker=small(composition, "cross", seed=0))
    assert waits_of(run, batches) == {}


@pytest.mark.parametrize("mode", [FROZEN_TOWER, TOWER_TABLES, TOWER_DENSE])
@pytest.mark.parametrize("composition", ["sequential", "conditional route and experts"])
def test_no_training_mode_makes_the_host_wait(context, batches, mode, composition):
    run = small_run(context, mode, ranker=small(composition, "cross", seed=0))
    assert waits_of(run, batches) == {}


@pytest.mark.parametrize("mode", [END_TO_END, FROZEN_TOWER, TOWER_TABLES])
def test_events_that_are_read_one_by_one_do_not_make_the_host_wait(context, mode):
    run = small_run(context, mode, ranker=eventful_ranker())
    rows = [eventful_batch(), eventful_batch(EVENTFUL[::-1]), eventful_batch(EVENTFUL[:3])]
    assert waits_of(run, rows, with_norms=True) == {}


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_makes_the_host_wait(context, batches, name, members):
    objective, _, outputs = OBJECTIVES[name]
    ranker = small("parallel concat", "cross", seed=0)
    width = ranker.composition.output_width
    ranker.head = Head(width, [4], 0.0, ranker.head.first_order, members=members, **outputs)
    columns = {GRADE: lambda batch: batch.label * 5, QUERY: lambda batch: torch.arange(len(batch)) // 3}
    with_extras = [replace(each, extra={name: of(each) for name, of in columns.items()}) for each in batches]

    assert waits_of(small_run(context, ranker=ranker), with_extras, objective, limit=1.0, with_norms=True) == {}


def test_an_adapter_on_a_frozen_tower_does_not_make_the_host_wait(context, batches):
    ranker = small("parallel gate", "cross", seed=0)
    ranker.composition.tower_adapter = LowRankAdapter(ranker.embedding_tower.output_width, rank=2)
    assert waits_of(small_run(context, FROZEN_TOWER, ranker=ranker), batches) == {}


def test_a_thawed_tower_does_not_make_the_host_wait(context, batches):
    stages = [TrainingStage(FROZEN_TOWER, steps=1), TrainingStage(END_TO_END)]
    run = staged_run(context, stages, ranker=small("parallel gate", "cross", seed=0))
    assert run.stages is not None
    assert run.stages.advance(1, None)
    assert waits_of(run, batches) == {}
    run.stages.proof.close()


def test_a_cached_tower_waits_where_it_asks_what_it_lacks_and_nowhere_else(context, batches, monkeypatch):
    # Some processors round a product of fewer rows otherwise, and a cache that sees it leaves the tower to itself.
    monkeypatch.setattr(TowerCache, "_check", lambda *_, **__: None)
    run = small_run(context, FROZEN_TOWER, ranker=small("parallel concat", "cross", seed=0))
    cache = TowerCache(run.ranker, 1, context)
    found = waits_of(run, [batches[0]] * 3)
    cache.close()
    # Its answers are worth these waits, or not: `training.tower_cache=if_faster` measures it.
    assert all("/cache.py:" in wait or "/vector_store.py:" in wait for wait in found)
    assert 0 < sum(found.values()) <= 8, found


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_neither_norms_nor_clipping_make_the_host_wait(context, batches, precision):
    run = small_run(context, ranker=small("conditional route and experts", "dot", seed=0))
    assert waits_of(run, batches, limit=0.1, with_norms=True, precision=precision) == {}


def test_averaging_the_weights_does_not_make_the_host_wait(context, batches):
    run = small_run(context, ranker=small("parallel concat", "cross", seed=0), table_precision="float16")
    average = WeightAverage(run.ranker, run.optimizers, decay=0.9)
    for number in range(3):
        with host_waits() as found:
            average.update(number)
    assert found == {}


def test_look_ups_ahead_do_not_make_the_host_wait(context, batches):
    run = small_run(context, ranker=small("parallel concat", "cross", seed=0))
    ahead = InputAhead(run.ranker)
    for batch in batches:
        with host_waits() as found:
            ahead(replace(batch))()
    assert found == {}


def in_backward(loss: Tensor) -> Tensor:
    loss.register_hook(lambda gradient: gradient * float(gradient.item() == gradient.item()))
    return loss


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda batch, loss: loss.item() and loss, "item"),
        (lambda batch, loss: loss + len(batch.segment.nonzero()), "nonzero"),
        (lambda batch, loss: loss * torch.tensor(1.0, device=loss.device), "tensor"),
        (lambda batch, loss: loss + batch.dense[batch.segment > 0].sum() * 0, "index"),
        (lambda batch, loss: loss + sum(batch.segment.tolist()) * 0, "tolist"),
        (lambda batch, loss: loss + batch.segment.bincount().sum() * 0, "bincount"),
        (lambda batch, loss: loss if loss > 0 else loss * 2, "__bool__"),
        (lambda batch, loss: loss + batch.dense[[0, 1]].sum() * 0, "__getitem__"),
        (lambda batch, loss: in_backward(loss), "_local_scalar_dense"),
    ],
)
def test_a_wait_is_found(context, batches, wait, name):
    def objective(ranker: nn.Module, batch: Batch) -> Tensor:
        return wait(batch, log_loss_objective(ranker, batch))

    run = small_run(context, ranker=small("parallel concat", "cross", seed=0))
    assert any(found.startswith(f"{name} in ") for found in waits_of(run, batches, objective))


def test_a_batch_that_nobody_counted_is_found(context, batches):
    run = small_run(context, ranker=small_ranker(lambda p: SegmentRoutedComposition(p, ROUTES, [7])))
    found = waits_of(run, [replace(batch, segment_counts=None) for batch in batches])
    assert any("counts_by_segment" in name for name in found)
