"""Every parameter that learns is stepped by exactly one optimizer at the schedule's rate, every frozen one by none."""

import pytest
import torch

from recsys.errors import DataError, TrainingError, UsageError
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import whole
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.modes import apply_training_mode
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers, RateSchedule
from tests.sharding.whole_loads import fill, shapes_of
from tests.training.small_run import CONSTANT, PARTS, gated_ranker, small_run

ROWWISE = TableOptimizer("rowwise_adagrad", 0.1)
ADAMW = DenseOptimizer(0.01, weight_decay=0.1)
TABLES = {"embedding_tower": ROWWISE, "interaction_network": ROWWISE, "head": ROWWISE}


def optimizers_for(context, dense, table_optimizers=TABLES, mode="end_to_end"):
    ranker = gated_ranker()
    apply_training_mode(ranker, mode)
    return RankerOptimizers(wrap_ranker(ranker, table_optimizers, context), dense, table_optimizers, CONSTANT)


def test_the_contract_names_every_parameter_and_table_once(context):
    run = small_run(context)

    lines = run.optimizers.contract()

    assert sorted(line.parameter for line in lines) == sorted(name for name, _ in gated_ranker().named_parameters())
    assert {line.optimizer for line in lines} == {"adamw", "rowwise_adagrad"}
    assert sum(line.elements for line in lines) == sum(p.numel() for p in gated_ranker().parameters())


def test_a_frozen_part_is_stepped_by_nobody(context):
    lines = small_run(context, "frozen_tower").optimizers.contract()

    frozen = {(line.is_trainable, line.optimizer) for line in lines if line.part == "embedding_tower"}
    others = {line.is_trainable for line in lines if line.part != "embedding_tower"}

    assert frozen == {(False, "none")}
    assert others == {True}


def test_a_parameter_that_nobody_steps_is_refused_by_name(context):
    dense = dict.fromkeys(PARTS, ADAMW) | {"head": None}

    with pytest.raises(TrainingError, match=r"`head\.hidden\.\S+` learns, but no optimizer steps it"):
        optimizers_for(context, dense)


def test_a_table_that_nobody_steps_is_refused_by_name(context):
    standing = {**TABLES, "interaction_network": None}

    with pytest.raises(TrainingError, match=r"`interaction_network\.fields\.ebc\.\S+` learns, but no optimizer"):
        optimizers_for(context, dict.fromkeys(PARTS, ADAMW), standing)


def test_a_frozen_table_with_an_optimizer_is_refused_by_name(context):
    dense = dict.fromkeys(PARTS, ADAMW) | {"embedding_tower": None}

    with pytest.raises(TrainingError, match=r"`embedding_tower\.ebc\.\S+` is frozen, but rowwise_adagrad steps"):
        optimizers_for(context, dense, mode="frozen_tower")


def test_an_optimizer_for_a_part_that_is_not_there_is_refused(context):
    with pytest.raises(UsageError, match="given for `tower`, but the model's parts are embedding_tower, interaction_"):
        optimizers_for(context, {**dict.fromkeys(PARTS, ADAMW), "tower": ADAMW})


def test_weight_decay_is_for_matrices_of_linear_layers_only(context):
    lines = {line.parameter: line.weight_decay for line in small_run(context, weight_decay=0.1).optimizers.contract()}

    assert lines["head.output.weight"] == 0.1
    assert lines["head.output.bias"] == 0.0
    assert lines["interaction_network.fields.dense_weight"] == 0.0
    assert {decay for name, decay in lines.items() if name.endswith("logits")} == {0.0}  # the segments' gates


def test_the_schedule_rises_linearly_and_falls_by_half_a_cosine():
    schedule = RateSchedule(warmup_steps=4, total_steps=12, final_share=0.2)

    assert [schedule.factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.factor(8) == pytest.approx(0.6)  # half-way down from 1 to 0.2
    assert schedule.factor(12) == schedule.factor(100) == pytest.approx(0.2)


def test_one_schedule_moves_the_rates_of_dense_parameters_and_tables(context):
    run = small_run(context, schedule=RateSchedule(warmup_steps=2, total_steps=10, final_share=0.0), rate=0.5)

    run.optimizers.set_rates(0)

    rates = run.optimizers.learning_rates()
    assert set(rates) == {*PARTS, "embedding_tower_tables", "interaction_network_tables", "head_tables"}
    assert set(rates.values()) == {0.25}


def test_state_comes_back_as_it_was(context):
    trained, fresh = small_run(context), small_run(context)
    trained.train(3)
    saved = whole(trained.optimizers.parts())

    fill(fresh.optimizers.room(shapes_of(saved)), saved)

    again = whole(fresh.optimizers.parts())
    assert set(again) == set(saved)
    assert all(torch.equal(again[name], saved[name]) for name in saved)
    assert any(name.endswith("exp_avg_sq") for name in saved)
    assert {name.removesuffix(".sum") for name in saved if name.endswith(".sum")} == set(
        inventory_of(trained.ranker).tables
    )


def test_state_of_another_mode_is_refused_by_name(context):
    trained = small_run(context)
    trained.train(1)

    with pytest.raises(DataError, match=r"holds `embedding_tower\.\S+`, which no optimizer here keeps"):
        small_run(context, "frozen_tower").optimizers.room(shapes_of(whole(trained.optimizers.parts())))
