"""Nights that several files compare and promote; made once."""

import shutil

import pytest

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
