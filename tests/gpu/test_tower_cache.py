"""On a GPU a frozen tower's vectors are kept there, and are those of the live tower to 1e-5."""

import pytest
import torch

from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.training.cache import TowerCache
from tests.small_model import JOINED_WIDTH, ROWS, batch_of, small_ranker
from tests.training.small_run import Batches, small_run

pytestmark = pytest.mark.gpu


def test_cached_vectors_are_the_live_towers(context):
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)))
    run = small_run(context, "frozen_tower", ranker=ranker)
    run.stream = Batches([batch_of(ROWS * 20).to(context.device), batch_of(ROWS[:3] * 30).to(context.device)])
    batch, tower = run.stream.batches[0], run.ranker.module.embedding_tower
    live = tower(batch)
    cache = TowerCache(run.ranker, 1, context)

    run.train(6)

    torch.testing.assert_close(tower(batch), live, atol=1e-5, rtol=1e-5)
    assert cache.record()["is_in_use"]
    assert cache.record()["answered_share"] > 0.5
