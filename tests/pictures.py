"""Runs of tests leave their pictures undrawn, which else take a third of a small training; how they look has tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# What a run attaches, by the names of `recsys.tracking.figures`.
_OF_A_RUN = ("learning_curves", "gradient_norms", "branch_gates", "calibration")


def draw_no_pictures() -> Callable[[], None]:
    """Leave a run's figures blank and the files of all pictures empty; the result undoes it."""
    from matplotlib.figure import Figure

    from recsys.tracking import figures

    save_drawn = Figure.savefig

    def blank(*_: object, **__: object) -> Figure:
        return Figure()

    def save(figure: Figure, place: Any, **options: Any) -> None:
        # A page's own pictures are read again, as text.
        if isinstance(place, Path):
            place.write_bytes(b"")
        else:
            save_drawn(figure, place, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(Figure, "savefig", save)
    # A page takes its figures from the same module by their own names, which stay.
    for name in _OF_A_RUN:
        patch.setattr(figures, name, blank)
    return patch.undo


@pytest.fixture(scope="module", autouse=True)
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """For a room's conftest: pictures are drawn in the modules that say `DRAWS_PICTURES`, and nowhere else."""
    if getattr(request.module, "DRAWS_PICTURES", False):
        yield
        return
    undo = draw_no_pictures()
    yield
    undo()
