"""What every room of tests shares: where the real data lies, a process group, markers that skip with a reason."""

import gc
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

# Half a million objects are made while tests are imported and found, and all stay: to look again and again for some
# that do not takes a sixth of that time. The garbage collector begins when the tests do.
gc.disable()

import pytest  # noqa: E402
import torch  # noqa: E402
from _pytest.doctest import DoctestModule  # noqa: E402

from recsys.sharding.processes import ProcessContext, start_processes, stop_processes  # noqa: E402
from tests.faults.commands import Commands  # noqa: E402
from tests.fresh_stores import copy_fresh_stores  # noqa: E402

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(1)


def _shared(name: str) -> Path:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"real data is absent: expected ../shared/data/{name} beside the repository")
    return folder


@pytest.fixture(scope="session")
def online_retail_folder() -> Path:
    """The folder of the real Online Retail transactions; tests that need it are skipped where it is absent."""
    return _shared("online-retail")


@pytest.fixture(scope="session")
def ml_100k_folder() -> Path:
    """The folder of the MovieLens-100K table; tests that need it are skipped where it is absent."""
    return _shared("ml-100k")


@pytest.fixture(scope="session")
def context() -> Iterator[ProcessContext]:
    """This process as a run of one, on the CPU also where there is a GPU; `tests/gpu` has one of its own."""
    yield start_processes("cpu")
    stop_processes()


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Starts commands in processes of their own that cost no start of Python."""
    with Commands() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _fresh_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs in this process are recorded in copies of one store; nothing is imported for tests that record none."""
    if "mlflow" not in sys.modules:
        yield
        return
    undo = copy_fresh_stores(tmp_path_factory.mktemp("store") / "mlflow.db")
    yield
    undo()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for examples in the docstrings of the library alone: no test has one, and to look takes seconds."""
    return [each for each in (yield) if not isinstance(each, DoctestModule)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of every garbage collection: half a million objects, which all stay."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let it go as usual: libraries take what is frozen for leaks, and say so at the end."""
    gc.unfreeze()
