"""`python -m recsys` and `torchrun -m recsys`: the command line, as a module that launchers can start."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def _commands() -> str:
    """The command line's module: in a wheel it lies inside the package, in a clone beside it."""
    inside = find_spec("recsys.pipelines")
    here = Path(__file__).resolve().parents[1]
    # An editable install of another clone would bring that one's commands.
    is_ours = inside is not None and inside.origin is not None and Path(inside.origin).is_relative_to(here)
    return "recsys.pipelines.cli" if is_ours else "pipelines.cli"


if __name__ == "__main__":
    sys.exit(import_module(_commands()).main())
