"""A run that was stopped and resumed from its checkpoint ends with the very bits of one that was never stopped.

With dropout, so that random generators must come back too, with a schedule in mid-descent, early stopping half-way
through its patience, and a bad batch before the break.
"""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from recsys.artifacts.checkpoint import save_checkpoint
from recsys.composition.conditional import SegmentGatedComposition
from recsys.composition.ranker import Head
from recsys.errors import DataError
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.optimizer import RateSchedule
from recsys.training.snapshot import state_dict
from tests.small_model import SEGMENTS, small_contract, small_ranker
from tests.training.saved_runs import KilledError, die_at_checkpoint, differing, everything, resume_run, save_run
from tests.training.small_run import small_run

SCHEDULE = RateSchedule(warmup_steps=3, total_steps=20, final_share=0.1)
LOG_LOSSES = {4: 0.6, 8: 0.5, 12: 0.55, 16: 0.52}
STEPS = 16


def ranker_with_dropout() -> nn.Module:
    ranker = small_ranker(lambda p: SegmentGatedComposition(p, len(SEGMENTS), [4]))
    ranker.head = Head(ranker.composition.output_width, [8], dropout=0.3, first_order=ranker.head.first_order)
    return ranker


def new_run(context, mode):
    run = small_run(context, mode, ranker=ranker_with_dropout(), schedule=SCHEDULE)
    torch.manual_seed(7)
    return run


def train(run, checkpoint_every=1000):
    """Train to the end; every loss also draws from Python's and NumPy's generators."""

    def objective(ranker, batch):
        loss = log_loss_objective(ranker, batch) * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))
        return loss * math.nan if run.state.step == 4 else loss

    run.log_losses = [loss for step, loss in LOG_LOSSES.items() if step > run.state.step]
    run.train(STEPS, objective, validate_every=4, report_every=3, patience=3, checkpoint_every=checkpoint_every)


def seed_generators():
    random.seed(1)
    np.random.seed(1)


def what_was_said(reports):
    return {report.step: (report.loss, report.gradient_norms, report.learning_rates) for report in reports}


@pytest.fixture(scope="module")
def unbroken_runs(context):
    runs = {}
    for mode in ("end_to_end", "frozen_tower"):
        seed_generators()
        runs[mode] = new_run(context, mode)
        train(runs[mode])
    return runs


@pytest.mark.parametrize(
    ("mode", "break_at"),
    [("end_to_end", 1), ("end_to_end", 5), ("end_to_end", 14), ("frozen_tower", 5), ("frozen_tower", 9)],
)
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(context, tmp_path, unbroken_runs, mode, break_at):
    unbroken = unbroken_runs[mode]

    seed_generators()
    broken = new_run(context, mode)
    die_at_checkpoint(broken, tmp_path)
    with pytest.raises(KilledError):
        train(broken, checkpoint_every=break_at)
    random.seed(99)
    np.random.seed(99)
    resumed = new_run(context, mode)
    resume_run(resumed, tmp_path)
    assert resumed.state.step == break_at
    train(resumed)

    assert resumed.state == unbroken.state
    assert differing(everything(resumed), everything(unbroken)) == []
    assert what_was_said(broken.reports) | what_was_said(resumed.reports) == what_was_said(unbroken.reports)


def test_a_run_that_was_asked_to_stop_goes_on_and_ends_with_the_same_bits(context, tmp_path, unbroken_runs):
    seed_generators()
    stopped = new_run(context, "end_to_end")
    stopped.asked_at = 6
    die_at_checkpoint(stopped, tmp_path)
    with pytest.raises(KilledError):
        train(stopped)
    resumed = new_run(context, "end_to_end")
    resume_run(resumed, tmp_path)
    assert resumed.state.ended == "asked"
    train(resumed)

    assert resumed.state.ended == "budget"
    assert differing(everything(resumed), everything(unbroken_runs["end_to_end"])) == []


def test_a_run_of_another_model_is_refused_and_says_so(context, tmp_path):
    run, other = new_run(context, "end_to_end"), small_run(context)
    save_run(run, tmp_path)

    with pytest.raises(DataError, match=r"`head\.\S+` has shape .* in the saved state and .* in this model"):
        resume_run(other, tmp_path)


def test_a_run_saved_by_another_version_is_refused(context, tmp_path):
    run = new_run(context, "end_to_end")
    held = state_dict(run.ranker, run.optimizers, run.stream, run.best, run.state.to_document())
    save_checkpoint(tmp_path, 1, held.tensors, {"loop": held.loop}, {}, small_contract(), keep_last=1)

    with pytest.raises(DataError, match="lacks 'stream': it was written by another version"):
        resume_run(run, tmp_path)
