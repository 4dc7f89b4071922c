"""Whether a training is the same on 1, 2 and 4 processes: its losses step by step, and what is measured of it.

    python -m tests.benchmarks.world_sizes [--sizes 1 2 4] [--steps 200] [--batch 84] [--only SUBSTRING]
        [--folder FOLDER] [--json]

Every case of `tests/method/world_size_cases.py` (every composition and mode, every kind of tower, weighted rows, an
uneven last step of each epoch) is trained on the same rows in the same steps, by gloo on the CPU. Prints a Markdown
table, a line a case: the largest relative difference, against one process, of the loss in any step, of the gradient's
norm in any step (of the tower's weights at the end, for pre-training), and of any figure of the last validation and of
the baselines on the test rows; and whether rows seen, stages and proofs of frozen parts are equal. With --json one JSON
object comes last, with the same numbers and milliseconds a step. What is made and measured is kept in --folder, and not
made or measured again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.sharding.processes import ProcessContext
from tests.method.world_size_cases import CASES, PURCHASES, RATINGS, SIMULATED, curves_of
from tests.pipelines.conftest import small_overrides
from tests.pipelines.own_table import ITEMS, PRETRAIN, OwnTable
from tests.pipelines.test_history_tower import with_events
from tests.pipelines.test_objectives_of_a_run import rated
from tests.purchases import Purchases
from tests.sharding.two_processes import run_in_several

_CASES_AT_ONCE = 3
MEASURED = ("loss", "norm", "metrics")


def worlds(root: Path) -> dict[str, list[str]]:
    """Overrides of each world, whose rows are written below `root`."""
    ratings = OwnTable(root / RATINGS)
    with_events(ratings)
    for feature in ratings.schema["table"]["history"]["features"].values():
        feature |= {"of": "rating"} if feature.get("of") == "clicked" else {}
    items, numbers = pa.array(range(ITEMS)), np.random.default_rng(3)
    vectors = pa.FixedSizeListArray.from_arrays(numbers.standard_normal(ITEMS * 8).astype(np.float32), 8)
    pq.write_table(pa.table({"item_id": items, "vector": vectors}), ratings.raw / "title_vectors.parquet")
    return {
        # An epoch whose last step has rows that four processes cannot share evenly.
        SIMULATED: [*small_overrides(root / SIMULATED), "data.rows=4002"],
        RATINGS: [*rated(ratings).words, *PRETRAIN],
        PURCHASES: Purchases(root / PURCHASES).overrides,
    }


def all_curves(context: ProcessContext, jobs: list[tuple[str, list[str]]], root: str, steps: int, batch: int) -> dict:
    """Every case's numbers, one case after the other in one group of processes."""
    found = {}
    for name, words in jobs:
        found[name] = curves_of(context, name, words, root, steps, batch)
        if context.is_first:
            print(f"{context.world_size} processes, {name}", file=sys.stderr, flush=True)
    return found


def difference(found: Any, expected: Any) -> float:
    """The largest relative difference of two lists, or of two objects' values; infinite where one lacks something."""
    if isinstance(found, dict):
        if found.keys() != expected.keys():
            return float("inf")
        found, expected = list(found.values()), list(expected.values())
    if len(found) != len(expected):
        return float("inf")
    # A gain's standard error is 0 before the first step.
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a != b]
    return max((abs(a - b) / max(abs(b), 1e-9) for a, b in pairs), default=0.0)


def compared(found: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """What a case's numbers are against those of one process."""
    counted = ("rows", "stage", "proof")
    return {
        **{name: difference(found[name], alone[name]) for name in MEASURED},
        "counts": all(found.get(name) == alone.get(name) for name in counted),
        "steps": len(found["loss"]),
        "milliseconds": found.get("milliseconds", 0.0),
    }


def markdown(table: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """The table's lines: of each case and measure the largest difference on any number of processes above one."""
    sizes = sorted({size for by_size in table.values() for size in by_size} - {1})
    heads = [f"{name}, {size}" for name in MEASURED for size in sizes]
    lines = [f"| what is trained | steps | {' | '.join(heads)} | counts |", f"|{'---|' * (len(heads) + 3)}"]
    for name, by_size in table.items():
        numbers = [f"{by_size[size][measure]:.1e}" for measure in MEASURED for size in sizes]
        counts = "equal" if all(each["counts"] for each in by_size.values()) else "DIFFER"
        steps = "all" if CASES[name].pretrains else by_size[1]["steps"]
        lines.append(f"| {name} | {steps} | {' | '.join(numbers)} | {counts} |")
    return lines


def curves_in(
    size: int, names: Sequence[str], made: dict[str, list[str]], root: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Cases' numbers on so many processes: those kept in the folder, and the others measured, a few at a time."""
    kept = root / f"curves-{size}-{options.steps}-{options.batch}.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [name for name in names if name not in found]
    for start in range(0, len(missing), _CASES_AT_ONCE):
        jobs = [(name, made[CASES[name].world]) for name in missing[start : start + _CASES_AT_ONCE]]
        # A folder of its own: towers that are trained here are those of this number of processes.
        place = Path(tempfile.mkdtemp(prefix=f"of-{size}-", dir=root))
        each = run_in_several(size, all_curves, place, jobs, str(place), options.steps, options.batch)
        losses = [{name: one["loss"] for name, one in of_process.items()} for of_process in each]
        assert losses == [losses[0]] * size, "processes of one run report different losses"
        found |= each[0]
        kept.write_text(json.dumps(found))
    return {name: found[name] for name in names}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=84)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [name for name in CASES if options.only in name]
    with tempfile.TemporaryDirectory() as folder:
        root = (options.folder or Path(folder)).absolute()
        words = root / "worlds.json"
        if not words.exists():
            words.parent.mkdir(parents=True, exist_ok=True)
            words.write_text(json.dumps(worlds(root)))
        made = json.loads(words.read_text())
        # One process first: the others train around the towers that it trained.
        sizes = (1, *(each for each in options.sizes if each > 1))
        results = {size: curves_in(size, names, made, root, options) for size in sizes}
    table = {
        name: {size: compared(of_size[name], results[1][name]) for size, of_size in results.items()} for name in names
    }
    print("\n".join(markdown(table)))
    if options.json:
        print(json.dumps(table))


if __name__ == "__main__":
    main()
