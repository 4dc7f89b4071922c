"""One small fixed training, and the losses that it had when they were last recorded.

A change that is meant to change results records them anew, in the same commit:

    python -m tests.pipelines.golden_training
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recsys.artifacts.pretrained_tower import save_tower
from recsys.config import RunConfig
from recsys.config.compose import CONF, compose_config
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.simulator import SimulatorSource, simulate
from recsys.datasets.world import World
from recsys.features.schema import load_schema
from recsys.files import write_text_atomically
from recsys.progress import silent
from recsys.run import pretrain, train
from recsys.run.folder import ARM, RunIdentity, RunResult
from recsys.run.record import open_store
from recsys.run.stopping import StopRequest
from recsys.study import tuning
from recsys.study.plan import StudyGrid, StudyPlan
from recsys.towers.artifact import TowerArtifact
from tests.pipelines.conftest import small_overrides

GOLDEN = Path(__file__).with_name("golden_training.json")
_BRISK = ("tower.epochs=3", "training.epochs=3", "training.learning_rate=0.01", "training.table_learning_rate=0.3")
RECORD = "python -m tests.pipelines.golden_training"
TOLERANCE = 2e-4
"""Processors round differently; in so short a training that stays below 1e-5."""


@dataclass(frozen=True)
class Golden:
    """What a training came to: the key under which a study would keep it, and its losses."""

    key: str
    losses: dict[str, float]

    def differing(self, other: "Golden") -> list[str]:
        """Losses in which the two differ by more than rounding."""
        names = sorted({*self.losses, *other.losses})
        return [
            f"{name}: {self.losses.get(name)} then, {other.losses.get(name)} now"
            for name in names
            if not abs(self.losses.get(name, 1e9) - other.losses.get(name, -1e9)) <= TOLERANCE
        ]

    def fault(self, now: "Golden") -> str:
        """What is wrong with a training of today, seen from the one recorded; empty where nothing is."""
        if not (differing := self.differing(now)):
            return ""
        losses = "; ".join(differing)
        if now.key == self.key:
            return (
                f"Results changed, and the key did not ({self.key}): {losses}. Something that bears on results is left "
                "out of recsys/run/result_keys.py, and studies would use old results again without a word."
            )
        return f"Results changed ({losses}), and the key with them. If that is meant, record them: {RECORD}"


@dataclass(frozen=True)
class SmallTraining:
    """Every step that makes a result, called by itself, so that a test can watch what each one runs."""

    root: Path
    overrides: tuple[str, ...]

    @property
    def config(self) -> RunConfig:
        return compose_config(self.overrides)

    def simulate(self) -> None:
        data: Any = self.config.data
        world = World(
            rows=data.rows, users=data.users, items=data.items, days=data.days, seed=0, world_seed=data.world_seed
        )
        simulate(self.root / "world", world)

    def encode(self) -> None:
        schema = load_schema(CONF.parent / self.config.data.schema_path)
        encode(SimulatorSource(self.root / "world"), schema, self.root / "rows", memory_limit="1GB", threads=1)

    @cached_property
    def encoded(self) -> EncodedDataset:
        return open_encoded(self.root / "rows")

    def pretrain(self) -> TowerArtifact:
        artifact = pretrain._pretrain(self.config, self.encoded, silent)
        vocabularies = {table: self.encoded.vocabulary(table) for table in self.encoded.contract.table_rows}
        save_tower(self.root / "tower", artifact, self.encoded.contract, vocabularies)
        return artifact

    def try_values(self, artifact: TowerArtifact) -> float:
        trial = tuning.try_values(self.config, {}, self.encoded, artifact, StopRequest())
        assert trial.log_loss is not None
        return trial.log_loss

    def train(self, artifact: TowerArtifact, name: str = "golden") -> RunResult:
        identity = RunIdentity(self.root / name, name, name, ARM)
        config = self.config
        return train.fit_and_measure(config, identity, open_store(config), self.encoded, artifact, silent, resume=False)

    def golden(self, around: Callable[[str, Callable[[], Any]], Any] = lambda name, step: step()) -> Golden:
        """Take every step.

        Args:
            around: calls the step that it is given, and returns what that returned.
        """
        around("simulate", self.simulate)
        around("encode", self.encode)
        assert self.encoded.rows("train")  # opened before it is handed to any step
        artifact = around("pretrain", self.pretrain)
        trial = around("try_values", lambda: self.try_values(artifact))
        result = around("train", lambda: self.train(artifact))
        losses = {
            "tower, validation": artifact.provenance["validation_loss"],
            "trial, validation": trial,
            "arm, test": result.scores["log_loss/all"],
            "arm, test AUC": result.scores["auc/all"],
        }
        return Golden(self.key, {name: round(loss, 6) for name, loss in losses.items()})

    @property
    def key(self) -> str:
        """That of the training as a study's arm; its folder ends with it."""
        plan = StudyPlan(StudyGrid(self.overrides), self.encoded)
        return plan.planned()[0].folder.name.rpartition("-")[2]


def small_training(root: Path) -> SmallTraining:
    """The training, with all of its output below `root`."""
    return SmallTraining(root, (*small_overrides(root), *_BRISK))


def recorded() -> Golden:
    """The losses as they were last recorded."""
    return Golden(**json.loads(GOLDEN.read_text()))


def record() -> str:
    """Train, and keep the losses; return what came of it.

    Losses that changed under the key of before are not kept: the key is at fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        now = small_training(Path(folder)).golden()
    if GOLDEN.exists() and recorded().key == now.key and (fault := recorded().fault(now)):
        return fault
    write_text_atomically(GOLDEN, json.dumps({"key": now.key, "losses": now.losses}, indent=1) + "\n")
    return ""


if __name__ == "__main__":
    sys.exit(record())
