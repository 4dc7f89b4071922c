"""Does it pay to be conditional where it should, and what does it cost elsewhere? In worlds whose truth is known.

    python tests/benchmarks/conditional_pays.py [--worlds 5] [--composition conditional] [--json]

Of every number two worlds are simulated. In the one a segment's users share a taste that other segments do not have,
nothing else of a user tells what they like, nobody has a past to speak of (two impressions a user), and the ranker is
not told who the user is: what the user segment tells is all that can be gained. In the other the segments are alike,
and users differ. In each the same ranker of `conf/` is trained as

    parallel             `composition=parallel`, whose interaction network has the segment as a field
    parallel, shuffled   the same, every row's segment another row's, in training and scoring alike: the control
    conditional          the composition that is asked about

on the same rows, in the same order, stopped on validation. The simulator knows each row's true probability, so

    recovered            log loss of the control minus that of `conditional`, over log loss of the control minus the
                         best possible: the share of what the segment tells that was found (target: 0.9 and more)
    recovered_by_parallel    the same of `parallel`
    gain_over_parallel   the two rankers' difference of log loss over parallel's distance from the best possible
    auc_lost             in the world of equal segments: AUC of `parallel` minus that of `conditional` (target: at most
                         0.0005 on average; of one world it is mostly luck)

Under a minute a world and core. Means over the worlds and their standard errors; one JSON object last, per world too.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_worlds import MemoryStream, in_order
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.config import RunConfig
from recsys.config.compose import CONF, compose_config
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.simulator import SimulatorSource, simulate
from recsys.datasets.world import World
from recsys.evaluation.baselines import LogisticRanker
from recsys.evaluation.split_evaluation import evaluate, predict
from recsys.features.batch import Batch
from recsys.features.schema import load_schema
from recsys.metrics.log_loss import log_loss
from recsys.metrics.predictions import Predictions
from recsys.progress import silent
from recsys.run import assemble, pretrain
from recsys.run.streams import TEST, TRAIN, VALIDATION
from recsys.sharding.processes import start_processes, stop_processes
from recsys.streaming.loader import BatchStream
from recsys.training.loop import LoopState, train_steps
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LOG_LOSS

PARALLEL, CONTROL, CONDITIONAL = "parallel", "parallel, shuffled", "conditional"
EFFECTS, ALIKE = "effects", "alike"
_SIZE = {"rows": 80_000, "items": 40, "days": 10, "drift": 0.0, "cold_share": 0.0}
_WORLDS: dict[str, dict[str, Any]] = {
    EFFECTS: {"users": 40_000, "shared_strength": 0.0, "segment_strength": 1.5, "personal_share": 0.0},
    ALIKE: {"users": 1_000, "shared_strength": 0.6, "segment_strength": 0.0},
}
_SETTINGS = (
    "data=simulated",
    *("tower.width=8", "tower.table_dimension=8", "tower.hidden_widths=[16]", "tower.epochs=1"),
    *("network.field_width=8", "network.hidden_widths=[32]", "network.layers=2"),
    # It is fitted before the start and would hide what the branches find.
    "network.first_order=false",
    *("composition.head_hidden=[32]", "training.batch_size=512", "training.epochs=8", "training.patience=4"),
    *("training.learning_rate=0.003", "training.table_learning_rate=0.05", "training.segment_view_every=0"),
    *("runtime.threads=1", "runtime.device=cpu"),
)
_SCHEMA = CONF.parent / "data" / "schemas" / "simulated.yaml"


class SimulatedRows:
    """The prepared rows of one world, in memory, and its pre-trained tower.

    Args:
        knows_users: whether the ranker is told who the user is.
    """

    def __init__(self, folder: Path, world: World, composition: str, *, knows_users: bool) -> None:
        self._folder, self._composition, self._knows_users = folder, composition, knows_users
        simulate(folder / "raw", world)
        encode(
            SimulatorSource(folder / "raw"),
            load_schema(_SCHEMA),
            folder / "encoded",
            memory_limit="1GB",
            threads=1,
            progress=silent,
        )
        self.encoded: EncodedDataset = open_encoded(folder / "encoded")
        self._tower = pretrain.run(self._config(PARALLEL), self.encoded, silent)

    @cached_property
    def splits(self) -> dict[str, Batch]:
        """Every split as one batch."""
        found = {split: self._whole(split) for split in (TRAIN, VALIDATION, TEST)}
        user = self.encoded.contract.schema.user
        return found if self._knows_users else {split: _without_user_ids(rows, user) for split, rows in found.items()}

    def trained(self, arm: str, seed: int) -> Predictions:
        """Train one arm; return what it says of the test rows."""
        config, splits = self._config(arm, f"training.seed={seed}"), self.splits
        if arm == CONTROL:
            random = np.random.default_rng(seed)
            splits = {split: _with_shuffled_segments(rows, random) for split, rows in splits.items()}
        context = start_processes("cpu")
        assert config.training.batch_size is not None
        stream = MemoryStream(splits[TRAIN], config.training.batch_size, seed)
        start = LogisticRanker(self.encoded.contract)  # which a ranker without a first-order path does not read
        made = assemble.assemble_ranker(config, self._tower, start, self.encoded, stream.num_batches, context)

        def validate() -> dict[str, float]:
            return {LOG_LOSS: log_loss_of(predict(made.wrapped, in_order(splits[VALIDATION])))}

        best = BestWeights(made.wrapped)
        for _ in train_steps(
            made.wrapped,
            made.optimizers,
            stream,
            log_loss_objective,
            assemble.loop_settings(config.training, stream.num_batches),
            context,
            state=LoopState(),
            best=best,
            validate=validate,
            checkpoint=lambda _: None,
            should_stop=lambda: False,
            stages=made.stages,
        ):
            pass
        best.restore()
        return predict(made.wrapped, in_order(splits[TEST]))

    def _config(self, arm: str, *overrides: str) -> RunConfig:
        composition = self._composition if arm == CONDITIONAL else PARALLEL
        folders = [f"runtime.{name}={self._folder / name}" for name in ("runs", "encoded", "towers")]
        return compose_config([f"composition={composition}", *_SETTINGS, *folders, *overrides])

    def _whole(self, split: str) -> Batch:
        rows = self.encoded.rows(split)
        stream = BatchStream(
            self.encoded.root,
            split,
            self.encoded.contract,
            batch_size=rows,
            seed=0,
            shuffle=False,
            shuffle_buffer_rows=rows,
            decode_threads=0,
            device=torch.device("cpu"),
            extras=("user_key", "true_probability"),
        )
        [batch] = list(stream)
        return batch


def log_loss_of(predictions: Predictions) -> float:
    """Mean log loss of all rows."""
    loss = log_loss(predictions.label, predictions.logit, predictions.weight)
    assert loss is not None
    return loss


def _without_user_ids(rows: Batch, user: str) -> Batch:
    """Every user unknown: ids that few rows have would be learned by heart, and of many would tell the control all."""
    ids = rows.sparse
    values, ends = ids.values().clone(), np.cumsum(ids.length_per_key()).tolist()
    place = ids.keys().index(user)
    values[ends[place] - ids.length_per_key()[place] : ends[place]] = 0
    return replace(rows, sparse=KeyedJaggedTensor(keys=ids.keys(), values=values, lengths=ids.lengths()))


def _with_shuffled_segments(rows: Batch, random: np.random.Generator) -> Batch:
    order = torch.from_numpy(random.permutation(len(rows)))
    return replace(rows, segment=rows.segment[order], segment_counts=None)


@contextlib.contextmanager
def simulated(kind: str, number: int, composition: str) -> Iterator[SimulatedRows]:
    """The rows of one world, in a folder that goes with them."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed=number, world_seed=number, **_SIZE, **_WORLDS[kind])
        yield SimulatedRows(Path(folder), world, composition, knows_users=kind == ALIKE)


def with_effects(number: int, composition: str) -> dict[str, float]:
    """What is found of the segments' effects in the world with that number."""
    with simulated(EFFECTS, number, composition) as rows:
        predictions = {arm: rows.trained(arm, number) for arm in (PARALLEL, CONTROL, CONDITIONAL)}
        truth = rows.splits[TEST].extra["true_probability"].double().numpy()
    any_of_them = predictions[PARALLEL]
    best = log_loss_of(replace(any_of_them, logit=np.log(truth / (1 - truth))))
    losses = {arm: log_loss_of(each) for arm, each in predictions.items()}
    there = losses[CONTROL] - best
    return {
        "recovered": (losses[CONTROL] - losses[CONDITIONAL]) / there,
        "recovered_by_parallel": (losses[CONTROL] - losses[PARALLEL]) / there,
        "gain_over_parallel": (losses[PARALLEL] - losses[CONDITIONAL]) / (losses[PARALLEL] - best),
        **{f"log_loss_{arm.replace(', ', '_')}": loss for arm, loss in losses.items()},
        "log_loss_best": best,
    }


def without_effects(number: int, composition: str) -> dict[str, float]:
    """What being conditional costs in the world with that number, whose segments are alike."""
    with simulated(ALIKE, number, composition) as rows:
        segments = rows.encoded.contract.schema.segments
        auc = {arm: evaluate(rows.trained(arm, number), segments).overall["auc"] for arm in (PARALLEL, CONDITIONAL)}
    parallel, conditional = auc[PARALLEL], auc[CONDITIONAL]
    assert parallel is not None
    assert conditional is not None
    return {"auc_lost": parallel - conditional, "auc_parallel": parallel}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first world")
    parser.add_argument("--composition", default=CONDITIONAL, help="a choice of conf/composition")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if options.json else sys.stdout):
        for number in range(options.first, options.first + options.worlds):
            one = with_effects(number, options.composition) | without_effects(number, options.composition)
            found.append(one)
            print(f"world {number}: " + "  ".join(f"{name} {value:.4f}" for name, value in one.items()), flush=True)
        stop_processes()
        means = {name: statistics.fmean(one[name] for one in found) for name in found[0]}
        spread = {name: _standard_error([one[name] for one in found]) for name in found[0]}
        for name, mean in means.items():
            print(f"{name:26}{mean:9.4f} +- {spread[name]:.4f}")
    print(json.dumps({"composition": options.composition, "mean": means, "standard_error": spread, "worlds": found}))


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
