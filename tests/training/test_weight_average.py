"""The average of the weights: worked out by hand, measured and kept in their place, staged, resumed and sharded."""

from pathlib import Path

import pytest
import torch

from recsys.errors import DataError, UsageError
from recsys.run.assemble import _require_near
from recsys.sharding.cluster import Bandwidths, Cluster
from recsys.sharding.plan_rules import Planning, PlanRules
from recsys.sharding.sharding_plan import TableMemory
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import TableOptimizer
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_TABLES
from recsys.training.stages import TrainingStage
from recsys.training.weight_average import WeightAverage
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import shapes_of
from tests.small_model import ROWS, batch_of
from tests.training.saved_runs import KilledError, die_at_checkpoint, differing, everything, resume_run, save_run
from tests.training.small_run import Batches, SmallRun, small_run, staged_run

DECAY = 0.75
TABLE = "interaction_network.fields.ebc.embedding_bags.network_item_id.weight"
WEIGHT = "head.output.weight"
STAGES = [TrainingStage(FROZEN_TOWER, steps=2), TrainingStage(TOWER_TABLES, steps=1), TrainingStage(END_TO_END)]


def averaged(run: SmallRun) -> SmallRun:
    run.average = WeightAverage(run.ranker, run.optimizers, DECAY)
    return run


def weights_after_each_step(run: SmallRun, steps: int) -> list[dict[str, torch.Tensor]]:
    found = []
    for step in range(run.state.step, steps):
        run.train(step + 1, patience=100)
        found.append(whole_state(run.ranker))
    return found


def by_definition(weights: list[torch.Tensor]) -> torch.Tensor:
    """sum_i (1 - d) d^(t - i) w_i / (1 - d^t)"""
    last = len(weights)
    shares = [(1 - DECAY) * DECAY ** (last - i) / (1 - DECAY**last) for i in range(1, last + 1)]
    assert sum(shares) == pytest.approx(1.0)
    return sum(share * each.double() for share, each in zip(shares, weights, strict=True)).float()


def test_three_steps_by_hand(context):
    run = averaged(small_run(context))
    assert whole(run.average.parts()) == {}
    parameter = dict(run.ranker.module.named_parameters())[WEIGHT]
    with torch.no_grad():
        for step, value in enumerate([1.0, 2.0, 4.0]):
            parameter.fill_(value)
            run.average.update(step)
    # (0.75^2 * 1 + 0.75 * 2 + 4) / (0.75^2 + 0.75 + 1)
    assert whole(run.average.parts())[WEIGHT].flatten().tolist() == pytest.approx([6.0625 / 2.3125] * 4)


def test_dense_weights_and_whole_tables_are_averaged_as_defined(context):
    run = averaged(small_run(context))
    seen = weights_after_each_step(run, 5)
    average = whole(run.average.parts())
    assert average.keys() == seen[-1].keys()
    for name, mean in average.items():
        assert torch.allclose(mean, by_definition([each[name] for each in seen]), rtol=1e-5, atol=1e-6), name
    assert not torch.equal(average[TABLE], seen[-1][TABLE])


def test_a_row_that_no_batch_looks_up_is_its_own_average_to_the_bit(context):
    run = averaged(small_run(context))
    run.stream = Batches([batch_of(ROWS[:2]), batch_of(ROWS[1:3])])  # items 1, 2, 3 and 5
    run.train(4, patience=100)
    average, weights = whole(run.average.parts())[TABLE], whole_state(run.ranker)[TABLE]
    assert [row for row in range(6) if torch.equal(average[row], weights[row])] == [0, 4]


def test_training_goes_on_with_the_weights_and_the_average_is_validated_and_kept(context):
    plain, run = small_run(context), averaged(small_run(context))
    validated = []

    def validate():
        validated.append(whole_state(run.ranker))
        return {"log_loss": 1.0 / len(validated)}

    run.validated = validate
    run.train(4, validate_every=2, patience=100)
    plain.train(4)
    assert all(torch.equal(whole_state(run.ranker)[name], each) for name, each in whole_state(plain.ranker).items())

    average = whole(run.average.parts())
    assert all(torch.equal(validated[-1][name], average[name]) for name in average)
    assert all(torch.equal(whole(run.best.parts())[name], average[name]) for name in average)
    run.best.restore()
    assert all(torch.equal(whole_state(run.ranker)[name], average[name]) for name in average)


def test_a_validation_that_fails_leaves_the_weights_as_they_were(context):
    run = averaged(small_run(context))
    run.train(2)
    before = whole_state(run.ranker)
    with pytest.raises(ZeroDivisionError), run.average.in_place():
        raise ZeroDivisionError
    assert all(torch.equal(whole_state(run.ranker)[name], each) for name, each in before.items())


def test_what_is_frozen_has_no_average_and_what_thaws_begins_at_its_weights(context):
    run = averaged(staged_run(context, STAGES))
    seen = weights_after_each_step(run, 2)
    assert not any(name.startswith("embedding_tower.") for name in whole(run.average.parts()))
    seen += weights_after_each_step(run, 5)
    average = whole(run.average.parts())
    assert average.keys() == seen[-1].keys()
    for name, mean in average.items():
        is_tower, is_table = name.startswith("embedding_tower."), ".ebc." in name
        since = (2 if is_table else 3) if is_tower else 0
        assert torch.allclose(mean, by_definition([each[name] for each in seen[since:]]), rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("break_at", [1, 2, 3, 4])
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(context, tmp_path, break_at):
    unbroken = averaged(staged_run(context, STAGES))
    unbroken.train(5, validate_every=2, patience=100)

    broken = averaged(staged_run(context, STAGES))
    broken.asked_at = break_at
    die_at_checkpoint(broken, tmp_path)
    with pytest.raises(KilledError):
        broken.train(5, validate_every=2, patience=100)
    resumed = averaged(staged_run(context, STAGES))
    resume_run(resumed, tmp_path)
    resumed.train(5, validate_every=2, patience=100)

    assert differing(everything(unbroken), everything(resumed)) == []


def test_an_average_of_other_weights_is_refused(context):
    run, other = averaged(small_run(context)), averaged(small_run(context, FROZEN_TOWER))
    run.train(1)
    with pytest.raises(DataError, match=r"`embedding_tower\.\S+` of shape .*which does not learn here"):
        other.average.room(shapes_of(whole(run.average.parts())))


def test_tables_in_half_precision_have_an_average_in_single(context):
    run = averaged(small_run(context, table_precision="float16"))
    seen = weights_after_each_step(run, 4)
    assert seen[-1][TABLE].dtype == torch.float16
    mean = whole(run.average.parts())[TABLE]
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, by_definition([each[TABLE] for each in seen]), rtol=1e-5, atol=1e-6)
    before = whole_state(run.ranker)
    with run.average.in_place():
        assert torch.equal(whole_state(run.ranker)[TABLE], mean.half())
    assert all(torch.equal(whole_state(run.ranker)[name], each) for name, each in before.items())


def test_tables_of_a_gpu_that_lie_in_the_hosts_memory_are_not_averaged_where_they_learn():
    memory = {"embedding_tower": TableMemory("uvm"), "head": TableMemory("fused")}
    learns = TableOptimizer("sgd", 0.1)
    _require_near(memory, {"embedding_tower": None, "head": learns}, None)
    with pytest.raises(UsageError, match=r"`training.table_kernels.embedding_tower` is uvm, which .* Let it be fused"):
        _require_near(memory, {"embedding_tower": learns, "head": learns}, None)
    rules = PlanRules({}, {}, table_kernels={"near": ("fused",), "far": ("uvm_caching",)})
    cluster = Cluster("cuda", 1, 1, 10**9, 10**9, Bandwidths(1, 1, 1, 1, 1), reserved_share=0.1)
    with pytest.raises(UsageError, match=r"`sharding.tables.far.kernel` is uvm_caching"):
        _require_near({}, {"head": learns}, Planning(cluster, rules, batch_rows=1))


HALVES = [[ROWS[:3], ROWS[3:]], [ROWS[:2], (ROWS[2], ROWS[4])]]


def average_together(context, folder):
    run = averaged(small_run(context))
    run.stream = Batches([batch_of(step[context.rank]) for step in HALVES])
    run.train(3)
    save_run(run, Path(folder))
    fresh = averaged(small_run(context))
    resume_run(fresh, Path(folder))
    average, kept, again = (whole(each.parts()) for each in (run.average, run.best, fresh.average))
    return {
        "average": {name: tensor.flatten().tolist() for name, tensor in average.items()},
        "kept": all(torch.equal(kept[name], tensor) for name, tensor in average.items()),
        "loaded": all(torch.equal(again[name], tensor) for name, tensor in average.items()),
    }


def test_two_processes_average_as_one_does_on_the_joined_batch(tmp_path, context):
    alone = averaged(small_run(context))
    alone.stream = Batches([batch_of(first + second) for first, second in HALVES])
    alone.train(3)

    first, second = run_in_two(average_together, tmp_path, str(tmp_path / "run"))

    assert first == second
    assert first["kept"]
    assert first["loaded"]
    assert first["average"].keys() == whole(alone.average.parts()).keys()
    for name, tensor in whole(alone.average.parts()).items():
        assert torch.allclose(torch.tensor(first["average"][name]), tensor.flatten(), atol=1e-4), name
