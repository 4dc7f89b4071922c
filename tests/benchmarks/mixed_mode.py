"""Does the mixed model find and use segments for which the tower is right, and others for which it is wrong?

    python tests/benchmarks/mixed_mode.py --studies 100 --processes 2 --json

In the world `planted` the users of two segments live in the world that the tower was pre-trained on, and have few rows;
those of the other two live in another world, in which the same items are liked for other reasons, and have many. One
mode for all is wrong for somebody: a frozen tower for the latter, and one that is fine-tuned unlearns what it knew of
the former, since they share the items. In the worlds `right` and `wrong` all segments are of the one or of the other
kind, and one mode for all is right for all.

The composition is conditional: with one network for all segments, arms whose tower is wrong for most rows learn to do
without it, and the study cannot tell what the tower is worth to the others.

A study trains a frozen and a fine-tuned arm with every seed, chooses each segment's rung by its validation rows, trains
the mixed model where the choice is mixed, and compares it with the better uniform mode on its test users. Of the last
line of output:

    mixed_wins, mixed_loses     verdicts "better" and "worse" of the mixed model against the better uniform mode,
                                in `planted` (targets: 90 of 100 and more; none)
    mean_gain                   its AUC minus that of the better uniform mode there
    mean_loss_without_effect    AUC of the better uniform mode minus that of the choice, in `right` and `wrong` (target:
                                at most 0.0005)
    step_over_end_to_end        processor time of a step of the mixed model over that of an end-to-end one, median of
                                all pairs (target: at most 1.15)

The worlds are kept in the folder --work, and one that is there is not made again.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from known_worlds import ELSEWHERE, HOME, Laboratory, MemoryStream, Size, in_order, over_processes
from planted_segments import CHOICE, PlantedRows, PlantedWorld

from recsys.ablation.arms import Contrast
from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.ablation.comparison import Rules, Verdict, compare
from recsys.ablation.least_change import least_changes
from recsys.all_segments import ALL
from recsys.composition.segment_rungs import SegmentRungs
from recsys.config.overrides import override
from recsys.evaluation.baselines import LogisticRanker
from recsys.evaluation.split_evaluation import predict
from recsys.features.batch import Batch
from recsys.metrics.log_loss import log_loss
from recsys.metrics.predictions import Predictions
from recsys.run import assemble, streams
from recsys.run.seen_ids import SeenIds
from recsys.sharding.processes import start_processes
from recsys.study.from_study import rungs_of_choices
from recsys.training.loop import LoopState, train_steps
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LOG_LOSS

FROZEN, END_TO_END, MIXED = "frozen_tower", "end_to_end", "by_segment"
_COMPOSITION = "composition=conditional"
_MODES = {
    FROZEN: ("training_mode.cache_megabytes=null",),
    END_TO_END: ("training_mode.rates.embedding_tower=1.0",),
    MIXED: ("training_mode.cache_megabytes=null", "training_mode.rates.tower_copies=1.0"),
}
_RULES = Rules(level=0.05, margins={"auc": 0.002})
_RULES_OF_CHOICE = replace(_RULES, segments_together=False)
_RESAMPLES = 100
_ORDER = (FROZEN, END_TO_END)


WORLDS = {
    "planted": PlantedWorld(1_500, 24_000, 1_024, 4),
    "right": PlantedWorld(2_000, 0, 256, 6),
    "wrong": PlantedWorld(0, 32_000, 1_024, 4),
}


@dataclass(frozen=True)
class StudyOutcome:
    """What came of one study.

    Attributes:
        gain: AUC of the choice minus that of the better uniform mode, on test rows.
        step_ratio: see the file's head; None where the choice was not mixed.
    """

    world: str
    number: int
    rungs: Mapping[str, str]
    gain: float
    verdict: Verdict
    step_ratio: float | None


def judge(laboratory: Laboratory, name: str, number: int, seeds: int) -> StudyOutcome:
    """Run one study: uniform arms, choice, mixed model, comparison."""
    torch.set_num_threads(1)
    rows = _planted_rows(laboratory)
    drawn = rows.drawn(WORLDS[name], number)
    said: dict[tuple[str, int], tuple[Predictions, Predictions, float]] = {}
    for seed in range(seeds):
        for mode in _ORDER:
            said[mode, seed] = _trained(laboratory, rows, drawn, WORLDS[name], mode, 1_000 * number + seed, {})
    on_validation = _measured({arm: each[0] for arm, each in said.items()}, rows.segments, number)
    question = Contrast("training_mode", *_ORDER, *_ORDER, {})
    choices = least_changes([compare(question, on_validation, _RULES_OF_CHOICE)], "auc", _ORDER)
    present = [rows.segments[each] for each in sorted(set(drawn[streams.TRAIN].segment.tolist()))]
    rungs = rungs_of_choices(choices, present)
    chosen, ratio = _ORDER[set(rungs.values()) == {"all"}], None
    if len(set(rungs.values())) > 1:
        chosen = MIXED
        own = dict.fromkeys(rows.segments, "frozen") | rungs
        for seed in range(seeds):
            said[MIXED, seed] = _trained(laboratory, rows, drawn, WORLDS[name], MIXED, 1_000 * number + seed, own)
        ratio = statistics.median(said[MIXED, seed][2] / said[END_TO_END, seed][2] for seed in range(seeds))
    on_test = _measured({arm: each[1] for arm, each in said.items()}, rows.segments, number)
    mean = {
        mode: np.mean([arm.values["auc", ALL][0] for arm in on_test if arm.condition == mode])
        for mode in {mode for mode, _ in said}
    }
    better = max(_ORDER, key=lambda mode: mean[mode])
    if chosen == better:
        return StudyOutcome(name, number, rungs, 0.0, Verdict.EQUIVALENT, ratio)
    found = compare(Contrast("training_mode", chosen, better, chosen, better, {}), on_test, _RULES).find("auc")
    assert found is not None
    return StudyOutcome(name, number, rungs, found.difference, found.verdict, ratio)


def figures(outcomes: Sequence[StudyOutcome]) -> dict[str, Any]:
    """The last line of output."""
    planted = [each for each in outcomes if each.world == "planted"]
    without = [each for each in outcomes if each.world != "planted"]
    ratios = [each.step_ratio for each in outcomes if each.step_ratio is not None]
    gains, losses = [each.gain for each in planted], [-each.gain for each in without]
    return {
        "studies": len(planted),
        "mixed_wins": sum(each.verdict is Verdict.BETTER for each in planted),
        "mixed_loses": sum(each.verdict is Verdict.WORSE for each in planted),
        "mean_gain": _mean(gains),
        "gain_standard_error": _error(gains),
        "studies_without_effect": len(without),
        "mean_loss_without_effect": _mean(losses),
        "loss_standard_error": _error(losses),
        "step_over_end_to_end": round(statistics.median(ratios), 3) if ratios else None,
    }


def _trained(
    laboratory: Laboratory,
    rows: PlantedRows,
    drawn: Mapping[str, Batch],
    world: PlantedWorld,
    mode: str,
    luck: int,
    rungs: Mapping[str, str],
) -> tuple[Predictions, Predictions, float]:
    """Train one arm; return what it says of the rows that choose and of test rows, and its processor seconds a step."""
    own = [override("training_mode.rungs", dict(rungs))] if rungs else []
    budget = (f"training.batch_size={world.batch_size}", f"training.epochs={world.epochs}", f"training.seed={luck}")
    config = laboratory.config(_COMPOSITION, f"training_mode={mode}", *own, *_MODES[mode], *budget)
    context = start_processes("cpu")
    assert config.training.batch_size is not None
    stream = MemoryStream(drawn[streams.TRAIN], config.training.batch_size, luck)
    start = LogisticRanker(rows.encoded.contract)  # which a ranker without a first-order path does not read
    seen = _seen(drawn[streams.TRAIN], rows, rungs) if rungs else None
    with patch.object(assemble, "seen_ids", lambda *_: seen):  # the rows are not those of the prepared files
        made = assemble.assemble_ranker(
            config, laboratory.tower(HOME), start, rows.encoded, stream.num_batches, context
        )

    def validate() -> dict[str, float]:
        said = predict(made.wrapped, in_order(drawn[streams.VALIDATION]))
        loss = log_loss(said.label, said.logit, said.weight)
        assert loss is not None
        validating.append(time.process_time())
        return {LOG_LOSS: loss}

    validating: list[float] = []
    best = BestWeights(made.wrapped)
    settings = replace(assemble.loop_settings(config.training, stream.num_batches), norms_every=10**9)
    seconds, last = 0.0, time.process_time()
    state = LoopState()
    for _ in train_steps(
        made.wrapped,
        made.optimizers,
        stream,
        log_loss_objective,
        replace(settings, report_every=1),
        context,
        state=state,
        best=best,
        validate=validate,
        checkpoint=lambda _: None,
        should_stop=lambda: False,
        stages=made.stages,
        average=made.average,
    ):
        now = time.process_time()
        if not validating:
            seconds += now - last
        validating.clear()
        last = time.process_time()
    best.restore()
    said = [predict(made.wrapped, in_order(drawn[split])) for split in (CHOICE, streams.TEST)]
    return said[0], said[1], seconds / state.step


def _seen(train: Batch, rows: PlantedRows, rungs: Mapping[str, str]) -> SeenIds:
    """The ids of the rows of the segments that learn all."""
    schema, tables = rows.encoded.contract.schema, rows.encoded.contract.table_rows
    learns = torch.tensor([rungs[segment] == "all" for segment in rows.segments])
    sparse = train.with_ids_of(learns[train.segment], train.sparse.keys()).sparse
    found: dict[str, torch.Tensor] = {}
    for feature, ids in zip(sparse.keys(), sparse.values().split(sparse.length_per_key()), strict=True):
        table = schema.feature(feature).table
        found.setdefault(table, torch.zeros(tables[table], dtype=torch.bool))[ids] = True
    by_table = {table: each.nonzero().squeeze(1) for table, each in found.items()}
    sizes = {"all": {table: len(ids) + 1 for table, ids in by_table.items()}}
    return SeenIds(SegmentRungs(tuple(rungs[each] for each in rows.segments), None, sizes), {"all": by_table})


def _measured(said: Mapping[tuple[str, int], Predictions], segments: Sequence[str], number: int) -> list[MeasuredArm]:
    bootstrap = UserBootstrap(next(iter(said.values())), {}, _RESAMPLES, seed=number)
    return [measure_arm(*arm, rows, {}, segments, bootstrap) for arm, rows in said.items()]


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.mean(values), 5) if values else None


def _error(values: Sequence[float]) -> float | None:
    return round(statistics.stdev(values) / len(values) ** 0.5, 5) if len(values) > 1 else None


@cache
def _planted_rows(laboratory: Laboratory) -> PlantedRows:
    return PlantedRows(laboratory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100, help="in each world")
    parser.add_argument("--first", type=int, default=100, help="study's number")
    parser.add_argument("--seeds", type=int, default=5, help="of each study's arms")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--processes", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2))
    parser.add_argument("--work", type=Path, default=Path("runs/mixed_mode"), help="where the worlds are kept")
    parser.add_argument("--rows", type=int, default=Size.rows, help="of each world; fewer make a weaker tower")
    parser.add_argument("--json", action="store_true", help="end with the figures as one JSON object")
    return parser.parse_args()


def main() -> None:
    """Prepare the worlds, run the studies, print what came of each."""
    # Read when the processes start: idle threads of a dozen pools would fight for the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    arguments = _arguments()
    laboratory = Laboratory(arguments.work.resolve(), replace(Size(), rows=arguments.rows))
    laboratory.folder.mkdir(parents=True, exist_ok=True)
    laboratory.tower(HOME)  # before the processes start, which would all make them at once
    laboratory.encoded(ELSEWHERE)
    numbers = range(arguments.first, arguments.first + arguments.studies)
    tasks = [(laboratory, world, number, arguments.seeds) for number in numbers for world in arguments.worlds]
    outcomes = []
    for one in over_processes(judge, tasks, arguments.processes):
        outcomes.append(one)
        print(
            f"{len(outcomes)}/{len(tasks)} {one.world} {one.number}: {one.gain:+.4f} {one.verdict} {one.rungs}",
            flush=True,
        )
    found = figures(outcomes)
    for name, value in found.items():
        print(f"{name:28} {value}")
    if arguments.json:
        print(json.dumps({**found, "seeds": arguments.seeds}))


if __name__ == "__main__":
    main()
