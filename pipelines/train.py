"""Train one ranker: one composition, one training mode, one seed; show its scores and where everything is."""

import argparse
from dataclasses import replace
from pathlib import Path

from recsys.config import RunConfig
from recsys.run import train
from recsys.run.folder import load_result, new_run
from recsys.run.record import final_metrics

from .console import console, progress_bars, show_table
from .result_tables import show_optimizers, show_with_baselines


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Train, and print the scores and where everything is."""
    identity = new_run(config)
    if arguments.resume:
        identity = replace(identity, folder=Path(arguments.resume))
        if load_result(identity.folder):
            console.print("This run has finished already: nothing is trained, and its record is unchanged.")
    with progress_bars() as progress:
        result = train.run(config, identity, progress, resume=bool(arguments.resume))
    show_optimizers(result.optimizers)
    scored = [entry for metrics in final_metrics(result.scores).values() for entry in metrics.items()]
    rows = [(metric, f"{value:.4f}") for metric, value in scored if "support" not in metric]
    title = f"{result.name}: {result.record.steps} steps, the best weights from step {result.best_step}"
    show_table(title, ("metric", "value"), rows)
    show_with_baselines(result.name, result.scores, result.baselines)
    if result.best_step == 0:
        console.print(
            "No validation was better than the start by more than chance, so the ranker is kept as it started: as the "
            "logistic regression of its first-order path, or as the model whose weights it started from.",
            soft_wrap=True,
        )
    for part, proof in result.frozen_proof.items():
        when = f"from step {proof['from_step']} to {proof['to_step']}"
        digests = f"digest {proof['digest_before']} before and {proof['digest_after']} after"
        console.print(f"{part} was unchanged {when}: {digests}", soft_wrap=True)
    console.print(f"Run folder: {identity.folder}\nNext: recsys ui", soft_wrap=True, markup=False)
