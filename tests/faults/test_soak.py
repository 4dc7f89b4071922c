"""The soak of `soak.py` in small: one night, killed at a few of its writes."""

from pathlib import Path

import pytest

from tests.faults.commands import Commands
from tests.faults.soak import DATES, Soak


@pytest.fixture
def soak(commands: Commands, tmp_path: Path) -> Soak:
    return Soak(commands, tmp_path, DATES[:1])


# What a night renames or writes last in its later steps: checkpoint, result, champion, and the registry behind its
# lock. A preparation and a training that are killed have tests of their own.
PLACES = ("step-#", "/result.json", "/champion.json", "/.registry.lock")


def test_a_night_killed_at_its_writes_ends_as_if_it_had_not_been(soak: Soak):
    soak.at_writes(len(PLACES), lambda kind: kind.endswith(tuple(f"{place}, for the 1. time" for place in PLACES)))

    found = soak.found
    assert found.kills == len(PLACES)
    assert (found.lost, found.differing, found.failed) == (0, 0, 0), found.details
