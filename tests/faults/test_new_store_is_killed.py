"""A run store that dies while it is made: the next command makes it, where MLflow alone would never open it again."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.db import utils

from recsys.tracking.store import TrackingStore


def die_half_way(engine: Any) -> None:
    """The first tables are there by then, and MLflow takes whatever has tables for a store of long ago."""
    utils.InitialBase.metadata.create_all(engine)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_store_that_was_killed_while_its_tables_were_made_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fresh = TrackingStore.in_folder(tmp_path, "e")
    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(utils, "_initialize_tables", die_half_way)
            fresh.open()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not fresh.database.exists()

    assert fresh.experiment_id(fresh.open())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "mlflow.db"]
