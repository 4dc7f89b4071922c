"""A world that is prepared, pre-trained on and trained on in seconds; made once for all tests of this room."""

from pathlib import Path

import pytest

from tests.pictures import no_pictures

__all__ = ["no_pictures"]


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make any command run on a tiny simulated world, with all of its output in one folder."""
    root = tmp_path_factory.mktemp("small_world")
    return small_overrides(root)


def small_overrides(root: Path) -> list[str]:
    """The same for a folder of the test's own."""
    return [
        "experiment=smoke",
        f"data.raw={root}/raw",
        "data.rows=4000",
        "data.users=150",
        "data.items=60",
        "data.days=10",
        f"runtime.runs={root}/runs",
        f"runtime.encoded={root}/encoded",
        f"runtime.towers={root}/towers",
        "runtime.device=cpu",
        "runtime.threads=1",
        "tower.width=8",
        "tower.table_dimension=8",
        "tower.epochs=1",
        "tower.batch_size=512",
        "network.field_width=8",
        "network.hidden_widths=[16]",
        "tracking.system_metrics=false",
    ]


def runs_folder(overrides: list[str]) -> Path:
    """Where the overrides put runs."""
    return Path(next(word for word in overrides if word.startswith("runtime.runs=")).partition("=")[2])
