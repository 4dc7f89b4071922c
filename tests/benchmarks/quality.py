"""How good the recipes are: each trained for some seeds, beside LightGBM and logistic regressions on the same rows.

    python tests/benchmarks/quality.py --task ml100k_temporal --raw <folder> --seeds 3 --json
    python tests/benchmarks/quality.py --task table --raw <folder> [--schema my.yaml | --user guest --item room]

A recipe is trained as `recsys train` trains it, on rows as `recsys prepare` encodes them. LightGBM has its defaults and
those very rows (`quality_features.py` says how they become its matrix); for queries lambdarank too, on the same
candidate lists. Of a table that nobody has described, `recsys init` drafts the schema; where it cannot tell the
columns, it is told them as that command is. Words such as `training.epochs=2` go to every training. The table shows
means over the seeds, their deviation, and what the recipe gains, paired by test user. The last line is one JSON object
with `--json`:
{task: {model: {auc, log_loss, grouped_auc, ndcg, ndcg_new, seeds, std}}}.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quality_measures import FIGURES, Gain, Tested, gains, summary
from quality_models import RECIPE, TrainedRecipe, others_tested, train_recipe

import recsys
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.config.overrides import override
from recsys.run import prepare
from recsys.run.record import CUTOFF

TABLE = "table"
_ROLES = ("user", "item", "time", "label", "query")


@dataclass(frozen=True)
class Task:
    """A recipe, as words of the command line, and the cutoff that its lists are judged at."""

    words: tuple[str, ...]
    cutoff: int = CUTOFF


TASKS = {
    "ml100k_random": Task(("experiment=history_random",)),
    "ml100k_temporal": Task(("experiment=history_train_only",)),
    "ml100k_live": Task(("experiment=history_live",)),
    "online_retail": Task(("experiment=history_retail",)),
    "beauty": Task(("experiment=amazon_sequences", "data=amazon_beauty"), cutoff=10),
    "toys": Task(("experiment=amazon_sequences", "data=amazon_toys"), cutoff=10),
    TABLE: Task(("data=table",)),
}
"""Task -> its recipe of `conf/experiment/`; of a table that is brought, the defaults."""


def main() -> None:
    """Train, compare, print."""
    options = _options()
    out: dict[str, dict[str, dict[str, object]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in options.task:
            out[task] = measure(task, options, Path(folder))
    if options.json:
        print(json.dumps(out))


def measure(task: str, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, object]]:
    """Train a task's recipe for every seed, and once what it is compared with; print the table, return the means."""
    words = _words(task, options, folder)
    config = _config(words, 0)
    encoded = prepare.run(config, _said)
    recipes = [train_recipe(_config(words, seed), _said) for seed in range(options.seeds)]
    others = others_tested(config, encoded, recipes[0], _said)
    tested: dict[str, Sequence[Tested]] = {RECIPE: [each.tested for each in recipes]}
    tested |= {name: [each] for name, each in others.items()}
    segments = encoded.contract.schema.segments
    gained = {name: gains(tested[RECIPE], each, segments) for name, each in tested.items() if name != RECIPE}
    cutoff = TASKS[task].cutoff
    found = {name: summary(each, cutoff) for name, each in tested.items()}
    _print_table(task, cutoff, found, gained)
    _print_cost(words, recipes)
    return found


def _print_table(
    task: str, cutoff: int, found: dict[str, dict[str, object]], gained: dict[str, dict[str, Gain]]
) -> None:
    shown = [name for name in FIGURES if any(model[name] is not None for model in found.values())]
    print(f"\n## {task}: means over seeds ± deviation, lists at {cutoff}; what the recipe gains, 95 % interval\n")
    paired = [name for name in shown if any(name in each for each in gained.values())]
    print(f"| model | seeds | {' | '.join([*shown, *(f'gain in {name}' for name in paired)])} |")
    print(f"|{'---|' * (2 + len(shown) + len(paired))}")
    for name, model in found.items():
        figures = [_figure(model, figure) for figure in shown]
        differences = [str(gained.get(name, {}).get(figure, "")) for figure in paired]
        print(f"| {name} | {model['seeds']} | {' | '.join([*figures, *differences])} |")


def _figure(model: dict[str, object], name: str) -> str:
    value, spread = model[name], model["std"]
    if value is None:
        return "-"
    assert isinstance(spread, dict)
    return f"{value:.4f} ± {spread[name]:.4f}" if model["seeds"] != 1 else f"{value:.4f}"


def _print_cost(words: Sequence[str], recipes: Sequence[TrainedRecipe]) -> None:
    seconds = [f"{each.seconds:.0f}" for each in recipes]
    print(f"\nrecsys train {' '.join(words)}: {', '.join(seconds)} s of the processor; the first has made the tower.")


def _words(task: str, options: argparse.Namespace, folder: Path) -> list[str]:
    words = list(TASKS[task].words)
    if options.raw:
        words.append(override("data.raw", options.raw))
    if task == TABLE:
        words.append(override("data.schema_path", options.schema or _drafted(options, folder)))
        words.append(override("data.name", Path(options.raw).stem.replace(" ", "_")))
    return [*words, *options.words]


def _drafted(options: argparse.Namespace, folder: Path) -> Path:
    path = folder / "drafted.yaml"
    recsys.init(options.raw, path, **{role: getattr(options, role) for role in _ROLES})
    return path


def _config(words: Sequence[str], seed: int) -> RunConfig:
    """Of a seed, which is the tower's as well where it is made here."""
    config = compose_config([*words, f"training.seed={seed}"])
    if not hasattr(config.tower, "seed"):
        return config
    return compose_config([*words, f"training.seed={seed}", f"tower.seed={seed}"])


def _said(label: str, done: int, total: int) -> None:
    if not done:
        print(label, file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, nargs="+", required=True)
    parser.add_argument("--raw", help="the folder of the task's rows; the recipe's own where it is not given")
    parser.add_argument("--schema", help=f"of --task {TABLE}; drafted where it is not given")
    for role in _ROLES:
        parser.add_argument(f"--{role}", default="", help="a column of the table, where it is not to be guessed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("words", nargs="*", help="further words of `recsys train`, such as training.epochs=2")
    options = parser.parse_intermixed_args()
    if TABLE in options.task and not options.raw:
        parser.error(f"--task {TABLE} needs --raw")
    return options


if __name__ == "__main__":
    main()
