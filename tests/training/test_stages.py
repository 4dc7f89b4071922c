"""Stages thaw the tower half by half: when, what learns in each, by which optimizers, and what is refused."""

import pytest
import torch
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

from recsys.errors import DataError, TrainingError, UsageError
from recsys.sharding import inventory, wrap
from recsys.sharding.inventory import Inventory, take_inventory
from recsys.sharding.whole_state import whole, whole_state
from recsys.training import snapshot
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from recsys.training.optimizer import RateSchedule
from recsys.training.stages import StagesState, TrainingStage, require_thawing
from tests.training.small_run import SmallRun, staged_run

TABLES_FIRST = [TrainingStage(FROZEN_TOWER, steps=3), TrainingStage(TOWER_TABLES, steps=2), TrainingStage(END_TO_END)]
TOP_FIRST = [TrainingStage(FROZEN_TOWER, steps=3), TrainingStage(TOWER_DENSE, steps=2), TrainingStage(END_TO_END)]
ON_STALL = [TrainingStage(FROZEN_TOWER, patience=2), TrainingStage(END_TO_END)]


def tower_halves(run: SmallRun) -> dict[str, dict[str, Tensor]]:
    state = {name: t for name, t in whole_state(run.ranker).items() if name.startswith("embedding_tower.")}
    return {
        "tables": {name: t for name, t in state.items() if ".ebc." in name},
        "dense": {name: t for name, t in state.items() if ".ebc." not in name},
    }


def changed_halves(run: SmallRun, steps: int) -> set[str]:
    """Train up to a step; return the tower's halves of which anything changed."""
    before = tower_halves(run)
    run.train(steps)
    after = tower_halves(run)
    return {half for half in before if any(not torch.equal(t, after[half][n]) for n, t in before[half].items())}


@pytest.mark.parametrize(("stages", "second"), [(TABLES_FIRST, {"tables"}), (TOP_FIRST, {"dense"})])
def test_each_stage_changes_what_learns_in_it_and_nothing_else(context, stages, second):
    run = staged_run(context, stages)

    assert changed_halves(run, 3) == set()
    assert changed_halves(run, 5) == second
    assert changed_halves(run, 8) == {"tables", "dense"}


@pytest.mark.parametrize("stages", [TABLES_FIRST, TOP_FIRST])
def test_what_is_frozen_has_no_state_and_starts_afresh_when_it_thaws(context, stages):
    run = staged_run(context, stages)

    run.train(3)
    frozen = {n: t for n, t in whole(run.optimizers.parts()).items() if n.startswith("embedding_tower.")}
    run.train(6)
    steps = {n: float(t) for n, t in whole(run.optimizers.parts()).items() if n.endswith(".step")}

    # The kernels of tables that will thaw hold their accumulators from the start: of zeros.
    assert all(name.endswith(".weight.sum") and not tensor.any() for name, tensor in frozen.items())
    since = 3 if stages is TOP_FIRST else 5
    assert {steps[n] for n in steps if n.startswith("embedding_tower.")} == {6 - since}
    assert {steps[n] for n in steps if n.startswith("head.")} == {6}


def test_the_contract_of_each_stage_says_who_steps_the_tower(context):
    run = staged_run(context, TABLES_FIRST)

    seen = []
    for end in (2, 4, 6):
        run.train(end)
        lines = [line for line in run.optimizers.contract() if line.part == "embedding_tower"]
        seen.append({(line.is_table, line.optimizer) for line in lines})

    assert seen == [
        {(True, "none"), (False, "none")},
        {(True, "rowwise_adagrad"), (False, "none")},
        {(True, "rowwise_adagrad"), (False, "adamw")},
    ]


def test_a_stage_ends_when_its_own_validations_stall(context):
    run = staged_run(context, ON_STALL)
    run.log_losses = [0.6, 0.5, 0.55, 0.52, 0.7, 0.6]

    run.train(9, validate_every=2, patience=5)

    # The best is that of step 4; step 6 and step 8 bring none better.
    assert (run.stages.state.stage, run.stages.state.since) == (1, 8)


def test_early_stopping_waits_for_the_last_stage_and_counts_anew_in_it(context):
    run = staged_run(context, [TrainingStage(FROZEN_TOWER, steps=5), TrainingStage(END_TO_END)])
    run.log_losses = [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]

    run.train(20, validate_every=1, patience=2)

    assert run.state.ended == "patience"
    assert run.state.step == 5 + 2


def test_a_thawed_half_warms_up_from_its_thaw(context):
    schedule = RateSchedule(warmup_steps=2, total_steps=2, final_share=1.0)
    run = staged_run(
        context, [TrainingStage(TOWER_TABLES, steps=3), TrainingStage(END_TO_END)], schedule=schedule, rate=0.1
    )

    rates = [report.learning_rates for report in run.train(6)]

    assert [each.get("embedding_tower", 0.0) for each in rates] == pytest.approx([0, 0, 0, 0.05, 0.1, 0.1])
    assert [each["embedding_tower_tables"] for each in rates] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert [each["head"] for each in rates] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_every_stage_leaves_its_proof(context):
    run = staged_run(context, TABLES_FIRST)
    run.train(7)

    record = run.stages.record(run.state.step)

    assert {path: (proof["from_step"], proof["to_step"], proof["mode"]) for path, proof in record.items()} == {
        "embedding_tower": (0, 3, FROZEN_TOWER),
        "embedding_tower.user_side": (3, 5, TOWER_TABLES),
        "embedding_tower.item_side": (3, 5, TOWER_TABLES),
    }
    assert all(proof["is_unchanged"] and proof["digest_before"] == proof["digest_after"] for proof in record.values())


def test_a_tower_that_moved_while_frozen_fails_the_switch(context):
    run = staged_run(context, TOP_FIRST)
    run.train(2)
    run.ranker.module.embedding_tower.item_side[0][0].weight.data[0, 0] += 1e-6

    with pytest.raises(TrainingError, match=r"`embedding_tower` is not proven unchanged: .*item_side\.0\.0\.weight"):
        run.train(3)


def test_a_frozen_half_that_moves_is_named(context):
    run = staged_run(context, TABLES_FIRST)
    run.train(4)
    run.ranker.module.embedding_tower.item_side[0][0].weight.data[0, 0] += 1e-6

    with pytest.raises(TrainingError, match=r"`embedding_tower\.item_side` is not proven unchanged"):
        run.train(5)


def test_gradient_norms_of_a_frozen_half_are_zero(context):
    run = staged_run(context, TOP_FIRST)

    norms = {report.step: report.gradient_norms for report in run.train(6)}

    assert [norms[step]["embedding_tower/tables"] > 0 for step in (3, 5, 6)] == [False, False, True]
    assert [norms[step]["embedding_tower/dense"] > 0 for step in (3, 5, 6)] == [False, True, True]


def test_a_checkpoint_whose_frozen_tower_was_changed_is_refused(context):
    run, other = staged_run(context, TABLES_FIRST), staged_run(context, TABLES_FIRST)
    run.train(2)
    other.ranker.module.embedding_tower.item_side[0][0].weight.data[0, 0] += 1e-6

    other.stages.go_to(run.stages.to_document())
    with pytest.raises(DataError, match="`embedding_tower` is frozen since step 0, but the loaded weights are not"):
        other.stages.confirm()


def test_a_stage_that_this_run_has_not_is_refused(context):
    run = staged_run(context, ON_STALL)

    with pytest.raises(DataError, match=r"The saved stage 2 .* is none of this run's 2"):
        run.stages.go_to({**run.stages.to_document(), "stage": 2})
    with pytest.raises(DataError, match="expected the keys"):
        run.stages.go_to({"stage": 0})
    assert run.stages.to_document() == {**StagesState().__dict__, "fingerprints": run.stages.state.fingerprints}


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "at least one stage"),
        (
            [TrainingStage(TOWER_TABLES, steps=1), TrainingStage(TOWER_DENSE)],
            "`tower_dense` cannot follow `tower_tables`",
        ),
        (
            [TrainingStage(END_TO_END, steps=1), TrainingStage(FROZEN_TOWER)],
            "`frozen_tower` cannot follow `end_to_end`",
        ),
        (
            [TrainingStage(FROZEN_TOWER), TrainingStage(END_TO_END)],
            "`frozen_tower` must end either after steps or by patience",
        ),
        (
            [TrainingStage(FROZEN_TOWER, steps=1, patience=1), TrainingStage(END_TO_END)],
            "either after steps or by patience",
        ),
        ([TrainingStage(FROZEN_TOWER, steps=1)], "`frozen_tower` is the last one and lasts to the end"),
        ([TrainingStage("thawed")], "`thawed` is unknown"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stages, words):
    with pytest.raises(UsageError, match=words):
        require_thawing(stages)


def test_the_inventory_of_tables_is_taken_once_for_a_whole_run(context, monkeypatch):
    taken: list[bool] = []  # whether the module was sharded by then

    def counted(module: nn.Module) -> Inventory:
        taken.append(any(isinstance(child, ShardedEmbeddingBagCollection) for child in module.modules()))
        return take_inventory(module)

    for user in (inventory, wrap):
        monkeypatch.setattr(user, "take_inventory", counted)
    run = staged_run(context, TOP_FIRST)
    run.on_checkpoint = lambda state: snapshot.state_dict(run.ranker, run.optimizers, run.stream, run.best, {})
    run.train(8, norms_every=1, segment_view_every=1, max_gradient_norm=1.0, validate_every=2, checkpoint_every=4)
    assert run.stages is not None
    run.stages.record(8)

    # Of the plain ranker for its mode and for its weights; then one goes through optimizers, contracts, proofs,
    # norms, stages and checkpoints.
    assert taken == [False, False, True]
