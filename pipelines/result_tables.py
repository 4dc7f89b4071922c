"""Tables that several commands print: a study, a ranker and the baselines, and which optimizer steps what."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from recsys.ablation.study_tables import BySeed, arms_table, segments_table
from recsys.all_segments import ALL
from recsys.metrics.auc import AUC
from recsys.metrics.registry import label_of, study_metrics
from recsys.run.fitted_baselines import COMPARED, figure_of, shortfall
from recsys.run.record import CUTOFF
from recsys.training.optimizer_contract import SUMMARY_HEADER

from .console import console, show_table, warn


def show_study(name: str, scores: BySeed, comparisons: Sequence[Mapping[str, Any]], metric: str, verdict: str) -> None:
    """Print every arm's scores, the differences by segment of each comparison, and the verdict.

    Args:
        name: of the study, over the table.
        scores: arm or baseline -> each seed's scores, as "auc/all".
        comparisons: as `Comparison.to_document` gives them.
        metric: that the differences are shown in.
    """
    # The comparisons keep the schema's order.
    ordered = [entry["segment"] for each in comparisons for entry in each["differences"]]
    scored = [key.partition("/")[2] for seeds in scores.values() for each in seeds for key in each]
    segments = [each for each in dict.fromkeys([*ordered, *scored]) if each != ALL]
    for table in (arms_table(scores, study_metrics(CUTOFF)), segments_table(scores, AUC.name, segments)):
        rows = [[cell.replace(" ± ", "±") for cell in row] for row in table.rows]
        show_table(f"{name}. {table.title}", table.header, rows)
    for comparison in comparisons:
        _show_comparison(comparison, metric)
    console.print(f"\n[bold]Verdict.[/bold] {escape(verdict)}\n", soft_wrap=True)


def _show_comparison(comparison: Mapping[str, Any], metric: str) -> None:
    contrast = comparison["contrast"]
    held = ", ".join(map(str, contrast["held"].values()))
    values = f"{contrast['first_value']} minus {contrast['second_value']}"
    rows = [
        (
            entry["segment"],
            f"{entry['users']:,}",
            f"{entry['difference']:+.4f}",
            "-" if entry["low"] is None else f"{entry['low']:+.4f} to {entry['high']:+.4f}",
            entry["verdict"],
        )
        for entry in comparison["differences"]
        if entry["metric"] == metric
    ]
    title = f"{values}, {label_of(metric)}{f' ({held})' if held else ''}"
    show_table(title, ("segment", "users", "difference", "95 % interval", "verdict"), rows)


def show_with_baselines(name: str, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Print a ranker's scores over those of the baselines on the same rows, and warn where it does not beat them."""
    shown = {name: scores, **{f"baseline: {word}": found for word, found in baselines.items()}}
    rows = [(who, *(figure_of(found, metric) for metric in COMPARED)) for who, found in shown.items()]
    show_table("Beside the baselines", ("", *(words for words in COMPARED.values())), rows)
    for word, found in baselines.items():
        if sentence := shortfall(name, scores, word, found):
            warn(sentence)


def show_optimizers(stages: Sequence[Mapping[str, Any]]) -> None:
    """Print which optimizer steps which parameters, a table for each stage, as `RunResult.optimizers` has them."""
    for each in stages:
        since = f" in stage {each['stage']}: {each['mode']}" if each["stage"] else ""
        show_table(f"Which optimizer steps what{since}", SUMMARY_HEADER, each["rows"])
        for sentence in each["shared"]:
            console.print(f"Shared: {sentence}", markup=False)
