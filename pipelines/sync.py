"""Send what was spooled while the tracking server was away."""

import argparse

from recsys.config import RunConfig
from recsys.run.record import open_store
from recsys.tracking.delivery import sync

from .console import console


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Send, and say how much."""
    store = open_store(config)
    report = sync(store)
    sentences = [f"{report.lines:,} lines of {report.delivered} runs are in {store.public_uri} now"]
    sentences += [f"{report.busy} runs are alive and send their lines themselves"] if report.busy else []
    sentences += (
        [f"{report.refused} lines were refused; see refused.jsonl in {store.spool_directory}"] if report.refused else []
    )
    console.print("; ".join(sentences), soft_wrap=True, markup=False)
