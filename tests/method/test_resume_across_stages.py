"""A staged run that was stopped before, at or after a thaw, and resumed, ends with the bits of one that never stopped.

Both triggers: after so many steps, and when validation stalls. With dropout above the tower and a warm-up after each
thaw, so that a stage that began one step off, or at a rate of its own, shows in the bits.
"""

import pytest
import torch
from torch import nn

from recsys.composition.conditional import SegmentGatedComposition
from recsys.composition.ranker import Head
from recsys.sharding.whole_state import whole_state
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from recsys.training.optimizer import RateSchedule
from recsys.training.stages import TrainingStage
from tests.small_model import SEGMENTS, small_ranker
from tests.training.saved_runs import KilledError, die_at_checkpoint, differing, everything, resume_run
from tests.training.small_run import SmallRun, staged_run

STEPS, VALIDATE_EVERY = 14, 2
SCHEDULE = RateSchedule(warmup_steps=3, total_steps=16, final_share=0.1)
LOG_LOSSES = {2: 0.6, 4: 0.61, 6: 0.5, 8: 0.52, 10: 0.51, 12: 0.4, 14: 0.3}

# Both thaw after step 4 and after step 8 (the stalling one: 0.61 after 0.6, then 0.52 after 0.5).
BY_STEPS = [TrainingStage(FROZEN_TOWER, steps=4), TrainingStage(TOWER_TABLES, steps=4), TrainingStage(END_TO_END)]
BY_STALL = [TrainingStage(FROZEN_TOWER, patience=1), TrainingStage(TOWER_DENSE, patience=1), TrainingStage(END_TO_END)]
SWITCHES = (4, 8)


def ranker_with_dropout() -> nn.Module:
    ranker = small_ranker(lambda p: SegmentGatedComposition(p, len(SEGMENTS), [4]))
    ranker.head = Head(ranker.composition.output_width, [8], dropout=0.3, first_order=ranker.head.first_order)
    return ranker


def new_run(context, stages) -> SmallRun:
    run = staged_run(context, stages, ranker=ranker_with_dropout(), schedule=SCHEDULE)
    torch.manual_seed(7)
    return run


def train(run, checkpoint_every=1000) -> None:
    run.log_losses = [loss for step, loss in LOG_LOSSES.items() if step > run.state.step]
    run.train(STEPS, validate_every=VALIDATE_EVERY, patience=3, checkpoint_every=checkpoint_every)


def broken_at(step, context, stages, folder) -> SmallRun:
    """A run that keeps a checkpoint after the given step, and dies."""
    run = new_run(context, stages)
    die_at_checkpoint(run, folder)
    with pytest.raises(KilledError):
        train(run, checkpoint_every=step)
    return run


def resumed_from(folder, context, stages) -> SmallRun:
    run = new_run(context, stages)
    resume_run(run, folder)
    return run


def what_was_said(run) -> dict[int, tuple]:
    return {each.step: (each.loss, each.gradient_norms, each.learning_rates) for each in run.reports}


@pytest.fixture(scope="module")
def unbroken_runs(context) -> list[SmallRun]:
    """By steps, and by stall."""
    runs = []
    for stages in (BY_STEPS, BY_STALL):
        runs.append(new_run(context, stages))
        train(runs[-1])
    return runs


# Before, at and after each of both thaws; every place in one way of staging at least.
@pytest.mark.parametrize(
    ("way", "break_at"),
    [("steps", 3), ("steps", 4), ("steps", 7), ("steps", 9), ("stall", 5), ("stall", 7), ("stall", 8)],
)
def test_a_run_resumed_around_a_thaw_ends_with_the_bits_of_an_unbroken_one(
    context, tmp_path, unbroken_runs, way, break_at
):
    stages, unbroken = (BY_STEPS, unbroken_runs[0]) if way == "steps" else (BY_STALL, unbroken_runs[1])
    broken = broken_at(break_at, context, stages, tmp_path)
    resumed = resumed_from(tmp_path, context, stages)
    assert resumed.state.step == break_at
    assert resumed.stages.state.stage == sum(break_at >= switch for switch in SWITCHES)
    train(resumed)

    assert resumed.state == unbroken.state
    assert resumed.stages.to_document() | {"proofs": {}} == unbroken.stages.to_document() | {"proofs": {}}
    assert differing(everything(resumed), everything(unbroken)) == []
    assert what_was_said(broken) | what_was_said(resumed) == what_was_said(unbroken)


def test_the_thaws_above_happen_where_they_are_said_to(unbroken_runs):
    for stages, run in zip((BY_STEPS, BY_STALL), unbroken_runs, strict=True):
        rates = {each.step: each.learning_rates for each in run.reports}
        half, other = "embedding_tower_tables", "embedding_tower"
        if stages is BY_STALL:
            half, other = other, half
        assert (half in rates[4], half in rates[5]) == (False, True)
        assert (other in rates[8], other in rates[9]) == (False, True)


def test_a_resumed_run_proves_all_its_stages(context, tmp_path):
    broken_at(6, context, BY_STEPS, tmp_path)
    resumed = resumed_from(tmp_path, context, BY_STEPS)
    train(resumed)

    proofs = resumed.stages.record(STEPS)

    assert {path: (proof["from_step"], proof["to_step"]) for path, proof in proofs.items()} == {
        "embedding_tower": (0, 4),
        "embedding_tower.user_side": (4, 8),
        "embedding_tower.item_side": (4, 8),
    }


def test_a_run_that_forgot_its_stage_would_end_elsewhere(context, tmp_path, unbroken_runs):
    """The counter-example: the same checkpoint, its stage counted anew from the resume, as a callback would."""
    unbroken = unbroken_runs[0]
    broken_at(3, context, BY_STEPS, tmp_path)
    forgetful = resumed_from(tmp_path, context, BY_STEPS)
    forgetful.stages.state.since = 3

    train(forgetful)

    assert not all(torch.equal(t, everything(forgetful)[name]) for name, t in whole_state(unbroken.ranker).items())
