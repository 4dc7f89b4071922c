"""Send what was spooled while the tracking server was away."""

import argparse

from pipelines.console import console
from pipelines.recording import open_store
from recsys.config import RunConfig
from recsys.tracking.delivery import sync


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Send, and say how much."""
    store = open_store(config)
    report = sync(store)
    console.print(f"Sent {report} to {store.public_uri}", soft_wrap=True)
