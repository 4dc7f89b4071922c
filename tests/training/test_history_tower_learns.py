"""A history tower in a ranker that learns: each source and head by its own freeze setting, measured by its own name."""

import pytest
import torch

from recsys.monitoring.frozen_proof import FrozenProof
from recsys.sharding.whole_state import whole_state
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from tests.towers.eventful_rows import EVENTFUL, eventful_batch, eventful_ranker
from tests.training.small_run import Batches, SmallRun, small_run

STAYING = ("embedding_tower.sources.vectors.", "embedding_tower.heads.user_vectors.")


def run_in(context, mode: str) -> SmallRun:
    run = small_run(context, mode, ranker=eventful_ranker())
    run.stream = Batches([eventful_batch(), eventful_batch(EVENTFUL[::-1]), eventful_batch(EVENTFUL[:2])])
    return run


def moved(run: SmallRun, steps: int = 3) -> set[str]:
    before = whole_state(run.ranker)
    run.train(steps)
    return {name for name, value in whole_state(run.ranker).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("mode", "tables", "dense"),
    [
        (END_TO_END, True, True),
        (TOWER_TABLES, True, False),
        (TOWER_DENSE, False, True),
        (FROZEN_TOWER, False, False),
    ],
)
def test_what_a_mode_and_the_freeze_settings_let_learn_moves_and_nothing_else(context, mode, tables, dense):
    run = run_in(context, mode)
    proof = FrozenProof(run.ranker, run.optimizers.local_state)
    of_tower = {name for name in moved(run) if name.startswith("embedding_tower.")}
    assert not {name for name in of_tower if name.startswith(STAYING)}
    assert any(".ebc." in name for name in of_tower) == tables
    layers = {f"embedding_tower.{name}" for name, _ in run.ranker.module.embedding_tower.named_parameters()}
    learning = {name for name in layers if ".ebc." not in name and not name.startswith(STAYING)}
    assert {name for name in of_tower if ".ebc." not in name} == (learning if dense else set())
    proven = proof.record()
    if mode == END_TO_END:
        assert set(proven) == {name.removesuffix(".") for name in STAYING}
    assert all(record["is_unchanged"] for record in proven.values())
    proof.close()


def test_norms_are_known_of_every_source_and_head(context):
    run = run_in(context, END_TO_END)
    norms = run.train(1)[0].gradient_norms
    by_name = {name.removeprefix("tower/"): norm for name, norm in norms.items() if name.startswith("tower/")}
    tower = run.ranker.module.embedding_tower
    assert set(by_name) == {*tower.sources, *tower.heads}
    assert {name for name, norm in by_name.items() if norm == 0} == {"vectors", "user_vectors"}
    parts = sum(norm**2 for norm in by_name.values())
    assert parts < norms["embedding_tower"] ** 2  # biases and factors are the rest


def test_the_contract_says_who_steps_what(context):
    lines = {line.parameter: line for line in run_in(context, END_TO_END).optimizers.contract()}
    assert {name for name, line in lines.items() if not line.is_trainable} == {
        name for name in lines if name.startswith(STAYING)
    }
    assert all(line.optimizer == "none" for name, line in lines.items() if name.startswith(STAYING))
