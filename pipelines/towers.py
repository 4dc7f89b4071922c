"""May a run take a new tower without being trained again? The maps, the run's scores through them, and the verdict."""

import argparse
import json
from pathlib import Path

from recsys.ablation.comparison import FixedDifference
from recsys.config import RunConfig
from recsys.progress import silent
from recsys.run import compare_towers
from recsys.run.compare_towers import TowerComparison

from .console import console, progress_bars, show_table


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Compare, and print the tables and the verdict.

    Args:
        config: the run's own, with what may differ on top.
        arguments: both towers' folders, the run's, and the split.
    """
    old, new, folder = Path(arguments.old), Path(arguments.new), Path(arguments.run)
    if arguments.json:
        found = compare_towers.run(config, old, new, folder, arguments.split, silent)
        print(json.dumps(found.to_document(), indent=2))
        return
    with progress_bars() as progress:
        found = compare_towers.run(config, old, new, folder, arguments.split, progress)
    _show_maps(found, folder)
    segments = list(found.chosen.differences)
    rows = [(each.fit.method, *(_difference(each.differences, segment) for segment in segments)) for each in found.maps]
    show_table("AUC with the new tower minus AUC with the old one, 95 % intervals", ("map", *segments), rows)
    parent = ", which training made from the old one" if found.new.parent == found.old.version else ""
    console.print(f"Old tower {found.old.version}; new tower {found.new.version}{parent}.", soft_wrap=True)
    for table, (ids, share) in found.missing.items():
        if ids:
            text = f"{ids:,} ids of `{table}` are not in the new tower; {share:.2%} of the rows have one of them."
            console.print(text, soft_wrap=True, markup=False)
    console.print(found.sentence, soft_wrap=True, markup=False)


def _show_maps(found: TowerComparison, folder: Path) -> None:
    header = ("map", "ids fitted", "held out", "R2", "cosine", "AUC", "log loss", "verdict")
    own = ("old tower", "-", "-", "-", "-", _score(found.own, "auc"), _score(found.own, "log_loss"), "-")
    rows = [
        (
            each.fit.method,
            f"{each.fit.fitted:,}",
            f"{each.fit.held_out:,}",
            f"{each.fit.r2:.4f}",
            f"{each.fit.cosine:.4f}",
            _score(each.scores, "auc"),
            _score(each.scores, "log_loss"),
            str(each.verdict),
        )
        for each in found.maps
    ]
    show_table(f"{folder.name} on {found.split}, by the map from the new tower to the old one", header, [own, *rows])


def _score(scores: dict[str, float], metric: str) -> str:
    name = f"{metric}/all"
    return f"{scores[name]:.4f}" if name in scores else "-"


def _difference(differences: dict[str, FixedDifference], segment: str) -> str:
    each = differences.get(segment)
    return "-" if each is None else f"{each.value:+.4f} ({each.low:+.4f} to {each.high:+.4f})"
