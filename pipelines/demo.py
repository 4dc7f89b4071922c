"""The project's question answered on a simulated world, in minutes."""

import argparse

from recsys.config import RunConfig
from recsys.config.overrides import require_unset
from recsys.study import ablate

from .ablate import show
from .console import console, progress_bars

EXPERIMENT = "experiment=demo"
NEXT = """
Next:
  make ui                                every run in the browser: learning curves, gradient norms by tower
  .venv/bin/recsys train --help          one run of your own
  .venv/bin/recsys ablate experiment=frozen_vs_finetuned data=online_retail data.raw=<folder>
                                         the same question on real transactions"""


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Simulate, prepare, pre-train, train every arm, compare, and say what to type next."""
    require_unset(arguments.overrides, ["experiment"], f"the demo is {EXPERIMENT}; `recsys ablate` runs another")
    with progress_bars() as progress:
        study = ablate.run([EXPERIMENT, *arguments.overrides], progress)
    show(study)
    console.print(NEXT, soft_wrap=True)
