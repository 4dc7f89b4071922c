"""Look at rows that nobody has declared yet, and write a first schema file for them."""

import argparse
import re
import shlex
from pathlib import Path

from recsys.config import RunConfig
from recsys.datasets.schema_inference.event_roles import Settled
from recsys.datasets.schema_inference.first_schema import first_schema, require_unused
from recsys.errors import UsageError

from .console import console, progress_bars


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Look, write the file, and say what is asked for and what to call next."""
    rows = Path(arguments.path)
    if not rows.exists():
        raise UsageError(f"{rows} does not exist, as seen from {Path.cwd()}. Expected a file of rows, or their folder.")
    stem = re.sub(r"[^A-Za-z0-9]+", "_", rows.absolute().name.split(".", 1)[0]).strip("_").lower() or "rows"
    output = Path(arguments.output or f"{stem}.yaml")
    # Before the work, which may take a minute.
    require_unused(output)
    settled = Settled(**{name: getattr(arguments, name) for name in Settled.__dataclass_fields__})
    name = re.sub(r"[^A-Za-z0-9_]+", "_", output.stem).strip("_") or stem
    with progress_bars() as progress:
        found = first_schema(rows, settled, name, config.runtime.memory_limit, config.runtime.cores, progress)
    found.write(output)
    for what, question in found.asked.items():
        _say(f"Asked for, {what}: {question}")
    for what, why in found.aside.items():
        _say(f"Left aside, {what}: {why}")
    words = ["data=table", f"data.name={name}", f"data.schema_path={output}", f"data.raw={found.raw}"]
    _say(f"Wrote {output}; its comments say what was seen and what is guessed.")
    for command in ("prepare", "train"):
        _say(f"Next: {shlex.join(['recsys', command, *words])}")


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
