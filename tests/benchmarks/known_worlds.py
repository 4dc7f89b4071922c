"""Small studies whose answer is known, through the parts that a real study is made of.

The simulator draws a world's rows, `encode` prepares them, the two-tower pre-training makes the tower, and every arm is
the configured ranker in the configured training mode, trained by the real loop and measured by the real comparison.
What is left out is what costs time and changes no score: tracking of the arms, checkpoints, and reading each arm's few
rows from Parquet (a split is read once, and studies take rows from memory).

The worlds are prepared once. A study draws its own training and validation rows from days that the tower did not learn
from, its own test users, and seeds that no other study has.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from recsys.ablation.arms import Contrast
from recsys.ablation.bootstrap import UserBootstrap, measure_arm
from recsys.ablation.comparison import Comparison, Rules, Verdict, compare
from recsys.config import RunConfig
from recsys.config.compose import CONF, compose_config
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.simulator import SimulatorSource, simulate
from recsys.datasets.world import World
from recsys.evaluation.baselines import LogisticRanker
from recsys.evaluation.split_evaluation import predict
from recsys.evaluation.stored_predictions import load_predictions, save_predictions
from recsys.features.batch import Batch
from recsys.features.schema import load_schema
from recsys.files import fingerprint_of
from recsys.metrics.log_loss import log_loss
from recsys.metrics.predictions import Predictions
from recsys.progress import silent
from recsys.run import assemble, pretrain, streams
from recsys.run.result_keys import code_of
from recsys.sharding.processes import start_processes
from recsys.streaming.loader import BatchStream
from recsys.towers.artifact import TowerArtifact
from recsys.training.loop import LoopState, train_steps
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LOG_LOSS

_Done = TypeVar("_Done")

FROZEN, END_TO_END = "frozen_tower", "end_to_end"
HOME, ELSEWHERE = 0, 7
"""The `world_seed` of the studies' rows, and that of the world where a foreign tower was pre-trained."""

_SCORED_AT_ONCE = 8192
_RESAMPLES = 100  # a spread from so many is known to 7 %, and measuring the arms takes less time than training them
_SCHEMA = CONF.parent / "data" / "schemas" / "simulated.yaml"
# Small networks and brisk rates, the same in both worlds and modes: an arm takes a second or two.
_SETTINGS = (
    "data=simulated",
    "tower.width=16",
    "tower.table_dimension=16",
    "tower.epochs=4",
    "tower.batch_size=2048",
    "network=mlp",
    "network.field_width=4",
    "network.hidden_widths=[16]",
    # The planted answers are of towers and networks: a assembly start would tell most of what such small worlds hold.
    "network.first_order=false",
    "training.learning_rate=0.003",
    "training.table_learning_rate=0.1",
    "training.segment_view_every=0",
    "runtime.threads=1",
    "runtime.device=cpu",
)
# A tower that may move does so at the full rates: at the fifth of them that is the default, so short a training would
# leave it nearly where it was, and the two modes would not differ by much.
_MODES = {FROZEN: ("training_mode.cache_megabytes=null",), END_TO_END: ("training_mode.rates.embedding_tower=1.0",)}


@dataclass(frozen=True)
class Size:
    """How much there is of everything; the tower learns from the first `tower_share` of the training days."""

    rows: int = 400_000
    users: int = 1_000
    items: int = 200
    tower_share: float = 0.75
    test_users: int = 250


@dataclass(frozen=True)
class KnownWorld:
    """A question whose answer follows from how the world was made.

    Attributes:
        tower_from: `world_seed` of the rows that the tower was pre-trained on.
        first_mode, second_mode: of the two arms; equal ones differ in their seeds instead.
        training_rows: of a study; it has a quarter as many validation rows.
        truth: the first arm beside the second; None where no difference is there to be found.
    """

    name: str
    tower_from: int
    first_mode: str
    second_mode: str
    training_rows: int
    batch_size: int
    epochs: int
    truth: Verdict | None

    @property
    def contrast(self) -> Contrast:
        """The question as a comparison takes it."""
        if self.first_mode == self.second_mode:
            return Contrast("training.seed", "one", "other", "one", "other", {})
        return Contrast("training_mode", *[self.first_mode, self.second_mode] * 2, {})


WORLDS = {
    world.name: world
    for world in (
        KnownWorld("seed_only", HOME, END_TO_END, END_TO_END, 2_000, 256, 6, None),
        KnownWorld("freezing_is_right", HOME, FROZEN, END_TO_END, 2_000, 256, 6, Verdict.BETTER),
        KnownWorld("fine_tuning_is_right", ELSEWHERE, FROZEN, END_TO_END, 40_000, 1_024, 4, Verdict.WORSE),
    )
}


@dataclass(frozen=True)
class Laboratory:
    """A folder where prepared worlds, towers and the arms' predictions are kept; what is there is not made again."""

    folder: Path
    size: Size

    def encoded(self, world_seed: int) -> EncodedDataset:
        """The rows of a world."""
        final = self.folder / f"world-{world_seed}-{fingerprint_of(asdict(self.size))}"
        if not final.exists():
            raw = final.with_name(final.name + "-raw")
            size = self.size
            world = World(size.rows, size.users, size.items, days=40, seed=0, world_seed=world_seed, cold_share=0.0)
            simulate(raw, world)
            source, schema = SimulatorSource(raw), load_schema(_SCHEMA)
            encode(source, schema, final, memory_limit="1GB", threads=1, progress=silent)
        return open_encoded(final)

    def config(self, *overrides: str) -> RunConfig:
        """The configuration of every arm and tower, but for `overrides`."""
        folders = [f"runtime.{name}={self.folder / name}" for name in ("runs", "encoded", "towers")]
        share = f"training.tower_day_share={self.size.tower_share}"
        return compose_config([*_SETTINGS, *folders, share, *overrides])

    def tower(self, world_seed: int) -> TowerArtifact:
        """A tower pre-trained on that world, its tables in the order of the home world's ids."""
        artifact = pretrain.run(self.config(), self.encoded(world_seed), silent)
        home, there = self.encoded(HOME), self.encoded(world_seed)
        weights = dict(artifact.weights)
        for table in home.contract.table_rows:
            if (name := f"ebc.embedding_bags.tower_{table}.weight") in weights:
                rows = there.vocabulary(table).rows_of(home.vocabulary(table).ids)
                weights[name] = weights[name][torch.from_numpy(np.append(0, rows))]
        return replace(artifact, weights=weights)

    def code(self) -> str:
        """Changes with anything that an arm's predictions follow from."""
        code = code_of(simulate, encode, pretrain.run, assemble.assemble_ranker, train_steps, predict)
        return fingerprint_of([asdict(self.size), _SETTINGS, _MODES, code])


class Workshop:
    """Trains and judges a known world's studies in this process."""

    def __init__(self, laboratory: Laboratory, world: KnownWorld) -> None:
        self._laboratory, self._world = laboratory, world
        self._arms = laboratory.folder / f"{world.name}-{fingerprint_of([str(asdict(world)), laboratory.code()])}"

    def study(self, number: int, seeds: int) -> Comparison:
        """Train what is not trained yet of the study's arms, and compare them."""
        contrast, segments = self._world.contrast, self._pools.segments
        arms = {
            (condition, seed): self._predictions(number, condition, seed)
            for condition in (contrast.first, contrast.second)
            for seed in range(seeds)
        }
        config = self._laboratory.config()
        rules = Rules(level=0.05, margins={"auc": config.ablation.margin})
        bootstrap = UserBootstrap(arms[contrast.first, 0], {}, _RESAMPLES, seed=number)
        measured = [measure_arm(*arm, rows, {}, segments, bootstrap) for arm, rows in arms.items()]
        return compare(contrast, measured, rules)

    def _predictions(self, number: int, condition: str, seed: int) -> Predictions:
        folder = self._arms / f"{number}-{condition}-s{seed}"
        if not folder.exists():
            save_predictions(self._train(number, condition, seed), folder)
        return load_predictions(folder)

    @cached_property
    def _pools(self) -> "Pools":
        return Pools(self._laboratory.encoded(HOME), self._laboratory.size)

    @cached_property
    def _tower(self) -> TowerArtifact:
        return self._laboratory.tower(self._world.tower_from)

    @cache  # noqa: B019 - a workshop lives as long as its process
    def _config(self, mode: str) -> RunConfig:
        world = self._world
        budget = (f"training.batch_size={world.batch_size}", f"training.epochs={world.epochs}")
        return self._laboratory.config(f"training_mode={mode}", *_MODES[mode], *budget)

    def _train(self, number: int, condition: str, seed: int) -> Predictions:
        world, pools = self._world, self._pools
        mode = world.first_mode if condition == world.contrast.first else world.second_mode
        config = self._config(mode)
        # Arms of one seed share weights and order; where nothing but the seed differs, they must not.
        luck = 1_000 * number + seed + (500 if condition == "other" else 0)
        config = replace(config, training=replace(config.training, seed=luck))
        train, validation, test = pools.drawn(number, world.training_rows)
        context = start_processes("cpu")
        stream = MemoryStream(train, config.training.batch_size, luck)
        start = LogisticRanker(pools.encoded.contract)  # which a ranker without a first-order path does not read
        assembly = assemble.assemble_ranker(config, self._tower, start, pools.encoded, stream.num_batches, context)

        def validate() -> dict[str, float]:
            rows = predict(assembly.wrapped, in_order(validation))
            loss = log_loss(rows.label, rows.logit, rows.weight)
            assert loss is not None
            return {LOG_LOSS: loss}

        best = BestWeights(assembly.wrapped)
        for _ in train_steps(
            assembly.wrapped,
            assembly.optimizers,
            stream,
            log_loss_objective,
            assemble.loop_settings(config.training, stream.num_batches),
            context,
            state=LoopState(),
            best=best,
            validate=validate,
            checkpoint=lambda _: None,
            should_stop=lambda: False,
            stages=assembly.stages,
            average=assembly.average,
        ):
            pass
        best.restore()
        return predict(assembly.wrapped, in_order(test))


class Pools:
    """The home world's rows in memory; a study's rows are drawn from them."""

    def __init__(self, encoded: EncodedDataset, size: Size) -> None:
        self.encoded, self.segments = encoded, encoded.contract.schema.segments
        self._test_users = size.test_users
        _, days = streams.divided_days(encoded, size.tower_share)
        self._train = whole_split(encoded, streams.TRAIN, days)
        self._validation = whole_split(encoded, streams.VALIDATION)
        self._test = whole_split(encoded, streams.TEST, extras=("user_key",))

    def drawn(self, number: int, training_rows: int) -> tuple[Batch, Batch, Batch]:
        """Training and validation rows, and all test rows of some users, for the study with that number."""
        generator = np.random.default_rng([HOME, number])
        parts = [
            pool.take(_positions(generator.choice(len(pool), size=rows, replace=False)))
            for pool, rows in ((self._train, training_rows), (self._validation, training_rows // 4))
        ]
        user = self._test.extra["user_key"].numpy()
        chosen = generator.choice(np.unique(user), size=self._test_users, replace=False)
        return parts[0], parts[1], self._test.take(_positions(np.flatnonzero(np.isin(user, chosen))))


class MemoryStream:
    """Rows in memory, shuffled anew in every epoch."""

    def __init__(self, rows: Batch, batch_size: int, seed: int) -> None:
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self.num_batches = -(-len(rows) // batch_size)
        self.epoch, self.wait_seconds = 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(len(self._rows))
        for first in range(0, len(order), self._batch_size):
            yield self._rows.take(_positions(order[first : first + self._batch_size]))
        self.epoch += 1


def over_processes(work: Callable[..., _Done], tasks: Sequence[tuple[Any, ...]], processes: int) -> Iterator[_Done]:
    """Do the tasks in processes of their own interpreter, and yield each result as it comes.

    A fork would share the first one's threads and its process group.
    """
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, *task) for task in tasks]):
            yield future.result()


def in_order(rows: Batch) -> Iterator[Batch]:
    """Cut rows into batches for scoring."""
    for first in range(0, len(rows), _SCORED_AT_ONCE):
        yield rows.take(torch.arange(first, min(first + _SCORED_AT_ONCE, len(rows))))


def whole_split(encoded: EncodedDataset, split: str, days: Sequence[str] = (), extras: Sequence[str] = ()) -> Batch:
    """Return a split, or some of its days, as one batch."""
    rows = encoded.rows(split)
    stream = BatchStream(
        encoded.root,
        split,
        encoded.contract,
        batch_size=rows,
        seed=0,
        shuffle=False,
        shuffle_buffer_rows=rows,
        decode_threads=0,
        device=torch.device("cpu"),
        extras=extras,
        days=days,
    )
    [batch] = list(stream)
    return batch


def _positions(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows)
