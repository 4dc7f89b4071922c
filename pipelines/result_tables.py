"""Tables that several commands print: a ranker beside the baselines, and which optimizer steps what."""

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.run.fitted_baselines import COMPARED, figure_of, shortfall
from recsys.training.optimizer_contract import SUMMARY_HEADER

from .console import console, show_table, warn


def show_beside_baselines(name: str, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Print a ranker's scores over those of the baselines on the same rows, and warn where it does not beat them."""
    shown = {name: scores, **{f"baseline: {word}": found for word, found in baselines.items()}}
    rows = [(who, *(figure_of(found, metric) for metric in COMPARED)) for who, found in shown.items()]
    show_table("Beside the baselines", ("", *(words for words in COMPARED.values())), rows)
    for word, found in baselines.items():
        if told := shortfall(name, scores, word, found):
            warn(told)


def show_optimizers(stages: Sequence[Mapping[str, Any]]) -> None:
    """Print which optimizer steps which parameters, a table for each stage, as `RunResult.optimizers` has them."""
    for each in stages:
        since = f" in stage {each['stage']}: {each['mode']}" if each["stage"] else ""
        show_table(f"Which optimizer steps what{since}", SUMMARY_HEADER, each["rows"])
        for sentence in each["shared"]:
            console.print(f"Shared: {sentence}", markup=False)
