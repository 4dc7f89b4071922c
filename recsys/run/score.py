"""Probabilities for raw rows, by a finished run's served model, with the past that they lack read from the events."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys.artifacts.export import load_scorer
from recsys.artifacts.scorer import Scorer
from recsys.artifacts.scoring import join_files, opened, partial_file, score_file
from recsys.config import RunConfig, TableData
from recsys.datasets.event_rows import events_opened
from recsys.datasets.table_rows import RowReader
from recsys.errors import UsageError
from recsys.files import ensure_writable
from recsys.progress import Progress
from recsys.run.folder import load_config
from recsys.run.frames import arrow_table
from recsys.run.prepare import raw_folder
from recsys.run.raw_copy import uri_of
from recsys.run.serving import MODEL
from recsys.run.streams import own_share
from recsys.sharding.first_process import by_first, processes, rank, wait_for_all

# Every block of rows goes through all events once.
_ROWS_PER_READ_WITH_EVENTS = 500_000


def run(
    config: RunConfig, folder: Path, input_file: Path, output_file: Path, events: Path | None, progress: Progress
) -> int:
    """Score the rows of a Parquet file by the run in `folder`; write them with a `probability`; return how many.

    Several processes score a share of the rows each, and the first one joins what they wrote.

    Args:
        events: the folder, or URI, of the events of which is counted what the rows lack; None: that which the run was
            trained on, if it is still there.

    Raises:
        UsageError, DataError, CannotWriteError: there is no finished run in `folder`; and see `score_file` and
            `EventRowReader.read`.
    """
    torch.set_num_threads(own_share(config)[1])
    scorer = load_scorer(folder / MODEL)
    with _with_events(scorer, opened(input_file).schema_arrow.names, config, folder, events, progress) as ready:
        if processes() == 1:
            return score_file(ready, input_file, output_file, progress)
        part = partial_file(output_file, number := rank())
        score_file(ready, input_file, part, progress, share=(number, processes()))
    wait_for_all()
    parts = [partial_file(output_file, number) for number in range(processes())]
    return by_first(lambda: join_files(parts, output_file))


def score_frame(folder: Path, frame: Any, events: Path | None, progress: Progress) -> npt.NDArray[np.float64]:
    """Return the probabilities of a frame's rows, (rows,); see `run`."""
    rows, scorer, config = arrow_table(frame), load_scorer(folder / MODEL), load_config(folder)
    with _with_events(scorer, rows.column_names, config, folder, events, progress) as ready:
        return ready.score(rows)


@contextmanager
def _with_events(
    scorer: Scorer, columns: Collection[str], config: RunConfig, folder: Path, events: Path | None, progress: Progress
) -> Iterator[Scorer]:
    """Yield the scorer, reading rows with their events where they lack columns that those tell."""
    reader = scorer.reader
    if not isinstance(reader, RowReader):
        if events:
            raise UsageError(
                f"The run in {folder} reads no table of events, so {events} has no meaning for it. Leave `--events` "
                "out."
            )
        yield scorer
        return
    raw = None if reader.row_columns.suffice(columns) else _raw_folder(config, folder, events, progress)
    if raw is None:
        yield scorer
        return
    encoded = config.runtime.encoded
    ensure_writable(encoded)
    with (
        TemporaryDirectory(dir=encoded, prefix=".scoring-") as work,
        events_opened(reader, raw, Path(work), *own_share(config), progress) as event_reader,
    ):
        yield replace(scorer, reader=event_reader, rows_per_read=_ROWS_PER_READ_WITH_EVENTS)


def _raw_folder(config: RunConfig, folder: Path, events: Path | None, progress: Progress) -> Path | None:
    """Where the events lie; None where none are named and those of the run are gone."""
    own = load_config(folder)
    if not isinstance(own.data, TableData):
        return None
    data = replace(own.data, raw=events) if events else own.data
    if not events and not (uri_of(data.raw) or data.raw.exists()):
        return None
    return raw_folder(replace(own, data=data, runtime=config.runtime), progress)
