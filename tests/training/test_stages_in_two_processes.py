"""Two processes thaw together, and a stage begun by one process goes on in two."""

from pathlib import Path

import pytest
import torch

from recsys.sharding.whole_state import whole_state
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_TABLES
from recsys.training.stages import TrainingStage
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, batch_of
from tests.training.saved_runs import resume_run, save_run
from tests.training.small_run import Batches, staged_run

STAGES = [TrainingStage(FROZEN_TOWER, steps=1), TrainingStage(TOWER_TABLES, steps=1), TrainingStage(END_TO_END)]
HALVES = [[ROWS[:3], ROWS[3:]], [ROWS[:2], (ROWS[2], ROWS[4])]]


def thaw_together(context, folder):
    run = staged_run(context, STAGES)
    run.stream = Batches([batch_of(step[context.rank]) for step in HALVES])
    run.train(1)
    save_run(run, Path(folder))
    stages = run.stages.to_document()
    run.train(4)

    other = staged_run(context, STAGES)
    other.stream = Batches(run.stream.batches)
    resume_run(other, Path(folder))  # which confirms the frozen part's fingerprint
    return {
        "stages": run.stages.to_document() | {"proofs": {}},
        "proven": sorted(run.stages.record(4)),
        "fingerprints": stages["fingerprints"],
        "weights": {name: tensor.flatten().tolist() for name, tensor in whole_state(run.ranker).items()},
    }


def test_two_processes_thaw_as_one_does_on_the_joined_batch(tmp_path, context):
    alone = staged_run(context, STAGES)
    alone.stream = Batches([batch_of(first + second) for first, second in HALVES])
    alone.train(1)
    fingerprints = dict(alone.stages.state.fingerprints)
    alone.train(4)

    first, second = run_in_two(thaw_together, tmp_path, str(tmp_path / "run"))

    assert first == second
    assert first["stages"] == alone.stages.to_document() | {"proofs": {}}
    assert first["proven"] == ["embedding_tower", "embedding_tower.item_side", "embedding_tower.user_side"]
    # However many processes hold the tower, what is frozen has one fingerprint.
    assert first["fingerprints"] == fingerprints
    for name, tensor in whole_state(alone.ranker).items():
        assert torch.tensor(first["weights"][name]) == pytest.approx(tensor.flatten(), abs=1e-4), name
