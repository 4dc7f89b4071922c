"""Look-ups that were begun ahead give the very bits of those that were not, and leave out what is not looked up."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_configs import PoolingType

from recsys.features.batch import Batch
from recsys.run.assemble import begin_ahead
from recsys.sharding.input_ahead import InputAhead
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.streaming.device import DeviceCopy, SentBatch, one_ahead
from recsys.training.cache import TowerCache
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.stages import TrainingStage
from tests.method.lower_precision import small
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS
from tests.sharding.small_rows import open_small_rows
from tests.sharding.tables import BAGS, TwoParts, keyed_ids
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, batch_of
from tests.towers.eventful_rows import EVENTFUL, eventful_batch, eventful_ranker
from tests.training.saved_runs import KilledError, die_at_checkpoint, resume_run
from tests.training.small_run import PARTS, Batches, SmallRun, small_run, staged_run


@dataclass
class BatchesAhead(Batches):
    """The same batches, each prepared before the one in front of it is handed out."""

    prepare: InputAhead | None = None

    def __iter__(self) -> Iterator[Batch]:
        copy = DeviceCopy(torch.device("cpu"), most_blocks=1)
        sent = (copy.begin(SentBatch(replace(batch), None), self.prepare) for batch in super().__iter__())
        for each in one_ahead(sent):
            yield copy.receive(each)


def ahead(run: SmallRun) -> SmallRun:
    run.stream = BatchesAhead(run.stream.batches, prepare=InputAhead(run.ranker))
    return run


def everything(run):
    return {**whole_state(run.ranker), **whole(run.optimizers.parts())}


def assert_same(one, other):
    assert all(torch.equal(tensor, everything(other)[name]) for name, tensor in everything(one).items())


@pytest.fixture
def whole_look_ups(monkeypatch) -> list[str]:
    """Notes the tables of each collection that is looked up as a whole."""
    called, forward = [], ShardedEmbeddingBagCollection.forward

    def noted(self, *arguments, **keywords):
        called.append(self._embedding_bag_configs[0].name)
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(ShardedEmbeddingBagCollection, "forward", noted)
    return called


@pytest.mark.parametrize("composition", ["sequential", *COMPOSITIONS])
def test_every_design_learns_the_same_and_has_all_of_its_tables_looked_up_ahead(context, composition, whole_look_ups):
    runs = [small_run(context, ranker=small(composition, "cross", seed=0)) for _ in range(2)]

    reports = runs[0].train(4)
    assert whole_look_ups
    whole_look_ups.clear()
    reports_ahead = ahead(runs[1]).train(4)

    assert not whole_look_ups
    assert_same(*runs)
    for one, other in zip(reports, reports_ahead, strict=True):
        assert (one.loss, one.gradient_norms) == (other.loss, other.gradient_norms)


def test_a_tower_that_thaws_between_two_batches_learns_from_the_second_one(context):
    stages = [TrainingStage("frozen_tower", steps=2), TrainingStage("end_to_end")]
    runs = [staged_run(context, stages), ahead(staged_run(context, stages))]

    for run in runs:
        run.train(4, segment_view_every=1)

    assert_same(*runs)
    norms = [report.gradient_norms["embedding_tower/tables"] for report in runs[1].reports]
    assert [norm > 0 for norm in norms] == [False, False, True, True]


def test_a_tower_that_a_cache_answers_for_is_not_looked_up_ahead(context, whole_look_ups, monkeypatch):
    # Some processors round a product of fewer rows otherwise, and a cache that sees it leaves the tower to itself.
    monkeypatch.setattr(TowerCache, "_check", lambda *_, **__: None)
    runs = [small_run(context, "frozen_tower") for _ in range(2)]
    caches = [TowerCache(run.ranker, 1, context) for run in runs]

    runs[0].train(6)
    of_cache = [table for table in whole_look_ups if table.startswith("tower_")]
    whole_look_ups.clear()
    ahead(runs[1]).train(6)

    assert whole_look_ups == of_cache  # what the cache itself asks for, and nothing of the rest
    assert all(cache.record()["is_in_use"] for cache in caches)
    assert_same(*runs)


def test_events_that_a_tower_looks_up_one_by_one_are_left_to_the_step(context):
    runs = [small_run(context, ranker=eventful_ranker()) for _ in range(2)]
    for run in runs:
        run.stream = Batches([eventful_batch(), eventful_batch(EVENTFUL[::-1])])

    runs[0].train(3)
    ahead(runs[1]).train(3)

    assert_same(*runs)


def validation_loss(run, rows):
    with torch.no_grad():
        return log_loss_objective(run.ranker.module, batch_of(rows)).item()


def test_a_batch_for_evaluation_is_looked_up_as_a_whole_while_another_one_is_ahead(context):
    runs = [small_run(context), ahead(small_run(context))]
    for run in runs:
        run.validated = lambda run=run: {"log_loss": validation_loss(run, ROWS)}
        run.train(6, validate_every=2)

    assert [report.validation for report in runs[0].reports] == [report.validation for report in runs[1].reports]
    assert_same(*runs)


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_bits_of_one_that_looked_nothing_up_ahead(context, tmp_path):
    def new_run(*, is_ahead: bool) -> SmallRun:
        run = small_run(context)
        run.stream = open_small_rows(tmp_path, torch.device("cpu"))
        run.stream.prepare = InputAhead(run.ranker) if is_ahead else None
        return run

    unbroken = new_run(is_ahead=False)
    unbroken.train(12)
    run = new_run(is_ahead=True)
    die_at_checkpoint(run, tmp_path / "run")
    with pytest.raises(KilledError):
        run.train(12, checkpoint_every=7)  # in the second epoch
    resumed = new_run(is_ahead=True)
    resume_run(resumed, tmp_path / "run")
    resumed.train(12)

    assert_same(unbroken, resumed)
    assert [report.loss for report in unbroken.reports] == [report.loss for report in run.reports + resumed.reports]


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_weights_of_a_mean_are_divided_once(context, sharding):
    batch = replace(batch_of(ROWS[:4]), sparse=keyed_ids(BAGS[0], weighted=True))
    assert_pooled_the_same(TwoParts(PoolingType.MEAN, weighted=True), sharding, context, batch)


def assert_pooled_the_same(model, sharding, context, batch):
    optimizers = dict.fromkeys(PARTS[:2], TableOptimizer("adagrad", 0.1))
    wrapped = wrap_ranker(model, optimizers, context, dict.fromkeys(PARTS[:2], sharding))
    InputAhead(wrapped)(batch)()
    for part in PARTS[:2]:
        tables = wrapped.module.get_submodule(part).ebc
        assert batch.ahead[tables].ids is batch.sparse
        assert torch.equal(batch.look_up(tables, batch.sparse).values(), tables(batch.sparse).values())


def look_up_together(run, context):
    validation_loss(run, ROWS[context.rank :: 2])
    return {"log_loss": 0.5}


def learn_together(context):
    found = {}
    for sharding in ("table_wise", "row_wise"):
        batch = replace(batch_of(ROWS[:4]), sparse=keyed_ids(BAGS[context.rank], weighted=True))
        assert_pooled_the_same(TwoParts(PoolingType.MEAN, weighted=True), sharding, context, batch)
    for is_ahead in (False, True):
        run = small_run(context)
        run.stream = Batches([batch_of(ROWS[context.rank :: 2]), batch_of(ROWS[2 + context.rank :: 3])])
        run.asked_at = 5 if context.rank == 0 else None  # with a batch ahead that no step will have
        run.validated = partial(look_up_together, run, context)
        (ahead(run) if is_ahead else run).train(9, validate_every=2, report_seconds=0.0)
        found[is_ahead] = {name: tensor.flatten().tolist() for name, tensor in everything(run).items()}
    return {"steps": run.state.step, "is_same": found[False] == found[True]}


def test_two_processes_learn_the_same_with_look_ups_begun_ahead(tmp_path):
    assert run_in_two(learn_together, tmp_path) == [{"steps": 6, "is_same": True}] * 2


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_run_looks_up_ahead_where_a_gpu_computes(context, kind):
    stream = SimpleNamespace(prepare=None)

    begin_ahead(stream, small_run(context).ranker, replace(context, device=torch.device(kind)))

    assert (stream.prepare is not None) == (kind == "cuda")
