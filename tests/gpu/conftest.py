"""The process of these tests computes on the GPU, or on the CPU where a test says so."""

from collections.abc import Iterator

import pytest

from recsys.sharding.processes import ProcessContext, start_processes, stop_processes

EITHER = [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"]
"""For `parametrize("context", ..., indirect=True)`: what must hold on both is tested wherever the tests run."""


@pytest.fixture(scope="module")
def context(request: pytest.FixtureRequest) -> Iterator[ProcessContext]:
    """This process as a run of one."""
    # The group that stands is another device's.
    stop_processes()
    yield start_processes(getattr(request, "param", "cuda"))
    stop_processes()
    start_processes("cpu")
