"""One process group for all tests of this room."""

from collections.abc import Iterator

import pytest

from recsys.sharding.processes import ProcessContext, start_processes, stop_processes


@pytest.fixture(scope="session")
def context() -> Iterator[ProcessContext]:
    """This process as a run of one."""
    yield start_processes()
    stop_processes()
