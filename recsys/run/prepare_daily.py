"""temporary"""

import datetime
import tempfile
from pathlib import Path

from recsys.datasets.database import temporary_database
from recsys.datasets.event_times import event_times
from recsys.run import prepare


def run(config, progress, known=None):
    return prepare.run(config, progress, known)


def day_fingerprints(config, progress):
    raw, layout = prepare.raw_folder(config, progress), prepare.table_layout(config.data)
    with tempfile.TemporaryDirectory() as folder, temporary_database(Path(folder), "1GB", 1) as connection:
        first, newest = event_times(connection, raw, layout, progress)
    n = (newest.date() - first.date()).days + 1
    return {first.date() + datetime.timedelta(days=i): "x" for i in range(n)}
