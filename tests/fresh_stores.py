"""New MLflow stores as copies of one that was made: its migrations take as long as a small training."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from recsys.locks import held_lock


def copy_fresh_stores(template: Path) -> Callable[[], None]:
    """Copy `template`, which is made at the first call, into every new SQLite store; the result undoes it."""
    from mlflow.store.db import utils

    initialize = utils._initialize_tables

    def copy(engine: Any) -> None:
        # Forks of one process may come here together.
        with held_lock(template.with_suffix(".lock"), "The tables", wait_seconds=-1):
            if not template.exists():
                unfinished = template.with_suffix(".unfinished")
                unfinished.unlink(missing_ok=True)
                made = utils.create_sqlalchemy_engine(f"sqlite:///{unfinished}")
                initialize(made)
                made.dispose()
                unfinished.rename(template)
        connection = engine.raw_connection()
        with closing(sqlite3.connect(template)) as tables, closing(connection):
            tables.backup(connection.driver_connection)

    def undo() -> None:
        utils._initialize_tables = initialize

    utils._initialize_tables = copy
    return undo
