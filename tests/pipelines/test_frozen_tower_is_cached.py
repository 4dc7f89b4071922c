"""A frozen run computes the tower's vectors once, and ends as it would without remembering them."""

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.errors import UsageError
from recsys.run.folder import RESULT
from recsys.training.cache import TowerCache
from tests.pipelines.conftest import runs_folder


def metrics(overrides: list[str]) -> dict[Path, dict[str, float]]:
    found = (runs_folder(overrides) / "simulated").glob(f"*/{RESULT}")
    return {path: json.loads(path.read_text())["scores"] for path in found}


def test_a_frozen_run_ends_with_the_same_scores_bit_for_bit_with_and_without_its_cache(
    small_world: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[dict[str, object]] = []

    class Noted(TowerCache):
        def close(self) -> None:
            records.append(self.record())
            super().close()

    monkeypatch.setattr("recsys.run.cached_tower.TowerCache", Noted)
    scores = []
    for megabytes in ("16", "null"):
        before = metrics(small_world)
        mode = ["training_mode=frozen_tower", f"training_mode.cache_megabytes={megabytes}"]
        assert main(["train", *small_world, *mode]) == 0
        scores += [each for path, each in metrics(small_world).items() if path not in before]

    assert len(scores) == 2
    assert scores[0] == scores[1]
    (record,) = records
    assert record["is_in_use"]
    assert record["largest_gap"] == 0


def test_a_cache_for_a_tower_that_learns_is_refused() -> None:
    with pytest.raises(
        UsageError, match="`end_to_end` has no `cache_megabytes`: its tower is never frozen; set it to null"
    ):
        compose_config(["training_mode=end_to_end", "training_mode.cache_megabytes=16"])
