"""New MLflow stores as copies of one that was made: its migrations take as long as a small training."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any


def copy_fresh_stores(template: Path) -> Callable[[], None]:
    """Copy `template`, which is made at the first call, into every new SQLite store; the result undoes it."""
    from mlflow.store.db import utils

    initialize = utils._initialize_tables

    def copy(engine: Any) -> None:
        if not template.exists():
            made = utils.create_sqlalchemy_engine(f"sqlite:///{template}")
            initialize(made)
            made.dispose()
        connection = engine.raw_connection()
        with closing(sqlite3.connect(template)) as tables, closing(connection):
            tables.backup(connection.driver_connection)

    def undo() -> None:
        utils._initialize_tables = initialize

    utils._initialize_tables = copy
    return undo
