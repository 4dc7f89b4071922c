"""A sequence tower in a ranker that learns: what a training mode lets learn moves, and nothing else."""

import pytest
import torch

from recsys.composition.branches import BranchProjection
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.sharding.whole_state import whole_state
from recsys.towers.any_tower import build_tower
from recsys.towers.tower_spec import SequenceShape, TowerSpec
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from tests.towers.eventful_rows import EVENTFUL, eventful_batch, eventful_contract, eventful_ranker, eventful_schema
from tests.training.small_run import Batches, small_run


@pytest.mark.parametrize(
    ("mode", "tables", "dense"),
    [
        (END_TO_END, True, True),
        (TOWER_TABLES, True, False),
        (TOWER_DENSE, False, True),
        (FROZEN_TOWER, False, False),
    ],
)
def test_what_a_mode_lets_learn_moves_and_nothing_else(context, mode: str, tables: bool, dense: bool):
    ranker = eventful_ranker()
    spec = TowerSpec.reading_sequence(eventful_schema(), width=8, shape=SequenceShape(blocks=1, heads=2, dropout=0.1))
    tower = ranker.embedding_tower = build_tower(spec, eventful_contract())
    width = ranker.interaction_network.output_width
    ranker.composition = ParallelComposition(BranchProjection(tower.output_width, width, 6), ConcatJoin(6))
    layers = {f"embedding_tower.{name}" for name, _ in tower.named_parameters() if ".ebc." not in name}
    run = small_run(context, mode, ranker=ranker)
    run.stream = Batches([eventful_batch(), eventful_batch(EVENTFUL[::-1])])
    before = whole_state(run.ranker)
    run.train(3)
    after = whole_state(run.ranker)
    moved = {
        name for name in after if name.startswith("embedding_tower.") and not torch.equal(after[name], before[name])
    }
    assert any(".ebc." in name for name in moved) == tables
    assert {name for name in moved if ".ebc." not in name} == (layers if dense else set())
