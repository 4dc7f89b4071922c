"""Nights that several files compare and promote; made once."""

import shutil
from collections.abc import Iterator

import pytest

from recsys.nightly import champion_comparison, golden_rows
from recsys.run.serving import MODEL
from tests.nightly.made_nights import MadeNights


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeNights:
    """A champion, a run with its weights, one that knows the labels in part, and another."""
    nights = MadeNights(tmp_path_factory.mktemp("nights"))
    nights.night("champion", seed=1, is_served=True)
    shutil.copytree(nights.root / "champion" / MODEL, nights.night("same", seed=1) / MODEL)
    nights.night("knowing", seed=2, hint=0.5)
    nights.night("other", seed=3)
    return nights


@pytest.fixture(scope="session", autouse=True)
def _golden_rows_in_this_process() -> Iterator[None]:
    """A fresh process for each would cost more than the night; `test_golden_rows` starts real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            champion_comparison,
            "check_in_fresh_process",
            lambda config, folder: golden_rows._scored(folder, golden_rows._tolerance(config)),
        )
        yield
