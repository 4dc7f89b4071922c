"""How often a study's verdict is right, in worlds where the answer is known.

    python tests/benchmarks/verdicts.py --studies 100 --processes 4 --json

In the world `seed_only` both arms are fine-tuned and differ in their seeds alone: any "better" or "worse" is false. In
the other two the answer is planted (`known_worlds.py`), and the opposite of it, or "equivalent", is false. The arms'
predictions are kept in the folder --work: a benchmark that was stopped goes on where it was, one of more studies or
seeds extends it, and what is there already is judged anew in no time.

With --settle a study that is left open is run again with the number of seeds that its verdict asks for, where that is
at most --most-seeds, and the table says how many of these then had a verdict.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from known_worlds import HOME, WORLDS, Laboratory, Size, Workshop, over_processes

from recsys.ablation.comparison import Comparison, Verdict

_METRIC = "auc"


@dataclass(frozen=True)
class Judged:
    """What came of one study.

    Attributes:
        verdict: overall.
        segments: verdicts in the segments.
        asked: seeds in all that an open verdict asked for; None where it was not open, or more would not do.
        settled: whether so many brought a verdict; None where it was not tried.
    """

    world: str
    number: int
    difference: float
    verdict: Verdict
    segments: tuple[Verdict, ...]
    asked: int | None
    settled: bool | None


def judge(laboratory: Laboratory, world: str, number: int, seeds: int, most_seeds: int | None) -> Judged:
    """Run one study and, if `most_seeds` allows, the longer one that it asks for."""
    torch.set_num_threads(1)
    workshop = _workshop(laboratory, world)
    comparison = workshop.study(number, seeds)
    overall = comparison.find(_METRIC)
    assert overall is not None
    settled = None
    if overall.seeds_to_settle is not None and most_seeds is not None and overall.seeds_to_settle <= most_seeds:
        longer = workshop.study(number, overall.seeds_to_settle).find(_METRIC)
        assert longer is not None
        settled = longer.verdict is not Verdict.OPEN
    return Judged(
        world,
        number,
        overall.difference,
        overall.verdict,
        _of_segments(comparison),
        overall.seeds_to_settle,
        settled,
    )


def judge_all(
    laboratory: Laboratory, tasks: Iterable[tuple[str, int]], arguments: argparse.Namespace
) -> Iterator[Judged]:
    """Run the studies over processes, and yield each as it ends."""
    most_seeds = arguments.most_seeds if arguments.settle else None
    each = [(laboratory, world, number, arguments.seeds, most_seeds) for world, number in tasks]
    yield from over_processes(judge, each, arguments.processes)


def figures(judged: Iterable[Judged]) -> dict[str, dict[str, float]]:
    """Figure -> world -> its value: what the last line of output says."""
    studies = list(judged)
    rows: dict[str, dict[str, float]] = {}
    for world in dict.fromkeys(one.world for one in studies):
        mine, truth = [one for one in studies if one.world == world], WORLDS[world].truth
        count = Counter(one.verdict for one in mine)
        wins = count[Verdict.BETTER] + count[Verdict.WORSE]
        opposite = 0 if truth is None else count[truth.turned]
        false = wins if truth is None else opposite + count[Verdict.EQUIVALENT]
        tried = [one for one in mine if one.settled is not None]
        values = {
            "studies": len(mine),
            "false_verdicts": false,
            # Where nothing is there to be found, saying so and saying nothing are both right.
            "right_verdicts": len(mine) - wins if truth is None else count[truth],
            "opposite_verdicts": opposite,
            "open_verdicts": count[Verdict.OPEN],
            "studies_with_a_false_verdict_in_a_segment": sum(_is_false(one.segments, truth) for one in mine),
            "mean_difference": round(sum(one.difference for one in mine) / len(mine), 5),
            "open_studies_run_on": len(tried),
            "settled_by_the_seeds_asked_for": sum(bool(one.settled) for one in tried),
        }
        for name, value in values.items():
            rows.setdefault(name, {})[world] = value
    return rows


def _is_false(segments: tuple[Verdict, ...], truth: Verdict | None) -> bool:
    """Segments differ in how much the truth matters to them, so that only its opposite is surely false there."""
    false = (Verdict.BETTER, Verdict.WORSE) if truth is None else (truth.turned,)
    return any(verdict in false for verdict in segments)


def _of_segments(comparison: Comparison) -> tuple[Verdict, ...]:
    return tuple(each.verdict for each in comparison.of_segments(_METRIC))


@cache
def _workshop(laboratory: Laboratory, world: str) -> Workshop:
    return Workshop(laboratory, WORLDS[world])


def _table(rows: dict[str, dict[str, float]]) -> str:
    worlds = list(rows["studies"])
    lines = ["| | " + " | ".join(worlds) + " |", "|:---|" + "---:|" * len(worlds)]
    lines += [
        f"| {name.replace('_', ' ')} | " + " | ".join(f"{found[world]:g}" for world in worlds) + " |"
        for name, found in rows.items()
    ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100, help="in each world")
    parser.add_argument("--first", type=int, default=100, help="study's number; on 0 to 99 the settings were chosen")
    parser.add_argument("--seeds", type=int, default=8, help="of each study's arms")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--processes", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2))
    parser.add_argument("--work", type=Path, default=Path("runs/verdicts"), help="where what is made is kept")
    parser.add_argument("--settle", action="store_true", help="run open studies on, with the seeds that they ask for")
    parser.add_argument("--most-seeds", type=int, default=16, help="that --settle trains for one study")
    parser.add_argument("--rows", type=int, default=Size.rows, help="of each world; fewer make a weaker tower")
    parser.add_argument("--json", action="store_true", help="end with the figures as one JSON object")
    return parser.parse_args()


def main() -> None:
    """Prepare the worlds, run the studies, print the table."""
    # Read when the processes start: idle threads of a dozen pools would fight for the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    arguments = _arguments()
    laboratory = Laboratory(arguments.work.resolve(), replace(Size(), rows=arguments.rows))
    laboratory.folder.mkdir(parents=True, exist_ok=True)
    # Before the processes start, which would all make them at once.
    for world_seed in {HOME, *(WORLDS[name].tower_from for name in arguments.worlds)}:
        laboratory.tower(world_seed)
    numbers = range(arguments.first, arguments.first + arguments.studies)
    tasks = [(world, number) for number in numbers for world in arguments.worlds]
    judged = []
    for one in judge_all(laboratory, tasks, arguments):
        judged.append(one)
        print(f"{len(judged)}/{len(tasks)} {one.world} {one.number}: {one.difference:+.4f} {one.verdict}", flush=True)
    rows = figures(sorted(judged, key=lambda one: arguments.worlds.index(one.world)))
    print(f"\n{arguments.seeds} seeds an arm\n\n{_table(rows)}\n")
    if arguments.json:
        print(json.dumps({**rows, "seeds": arguments.seeds}))


if __name__ == "__main__":
    main()
