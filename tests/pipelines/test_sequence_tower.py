"""A run around a sequence tower: pre-trained on next events, kept, frozen and proven, and retrieving for the ranker."""

from pathlib import Path

import pytest
import torch

from recsys.artifacts.export import load_scorer
from recsys.config.compose import compose_config
from recsys.progress import silent
from recsys.run import prepare, pretrain, train
from recsys.run.folder import RunResult, new_run
from recsys.towers.sequence import SequenceTower
from recsys.towers.tower_spec import TowerKind
from tests.purchases import Purchases, schema_of

TOWER = ["tower=sequence", "tower.width=8", "tower.epochs=3", "tower.batch_size=4", "tower.negatives=16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, RunResult]:
    document = schema_of(candidates={"within": "20d", "nearest": 12})
    shop = Purchases(tmp_path_factory.mktemp("shop"), document)
    of_any = [override for override in shop.overrides if not override.startswith("tower.")]
    overrides = [*of_any, *TOWER, "training_mode=frozen_tower", "training.epochs=1"]
    config = compose_config(overrides)
    identity = new_run(config)
    return overrides, identity.folder, train.run(config, identity, silent)


def test_it_retrieves_what_the_ranker_orders(trained):
    _, _, result = trained
    assert 0 < result.scores["tower_recall_10/all"] <= 1
    assert 0 < result.scores["candidates_recall/all"] <= 1


def test_the_frozen_tower_of_the_model_is_the_one_that_was_pre_trained_and_is_made_once(trained):
    overrides, folder, _ = trained
    config = compose_config(overrides)
    artifact = pretrain.run(config, prepare.run(config, silent), silent)
    tower = load_scorer(folder / "model").ranker.embedding_tower
    assert isinstance(tower, SequenceTower)
    assert artifact.spec == tower.spec
    assert artifact.spec.kind is TowerKind.SEQUENCE
    assert all(torch.equal(value, tower.state_dict()[name]) for name, value in artifact.weights.items())
    assert len(list(config.runtime.towers.glob("*sequence*/tower"))) == 1
    assert {"validation_loss", "validation_recall_20", "objective"} <= set(artifact.provenance)
