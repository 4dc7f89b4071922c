"""The spool by itself: what is on disk after deaths, tears and resumption."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from recsys.errors import BusyError, CannotWriteError, DataError
from recsys.tracking.spool import LINES, Spool, read_lines, spools_in
from tests.faults.commands import Commands, Ending


def metric_lines(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(line["step"], line["metrics"]) for line, _ in read_lines(folder) if line["kind"] == "metrics"]


def test_a_resumed_run_writes_each_metric_and_step_once(tmp_path: Path):
    with Spool.create(tmp_path, {"name": "r"}) as spool:
        for step in (1, 2, 3):
            spool.write_metrics(step, {"train/loss": step / 10})
        spool.write_metrics(3, {"valid_auc/all": 0.7})

    with Spool.resume(tmp_path, spool.spool_id) as again:
        for step in (2, 3, 4):
            again.write_metrics(step, {"train/loss": 9.0})
        again.write_metrics(3, {"grad_norm/head": 0.5})

    assert metric_lines(spool.folder) == [
        (1, {"train/loss": 0.1}),
        (2, {"train/loss": 0.2}),
        (3, {"train/loss": 0.3}),
        (3, {"valid_auc/all": 0.7}),
        (4, {"train/loss": 9.0}),
        (3, {"grad_norm/head": 0.5}),
    ]


def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path: Path):
    with Spool.create(tmp_path, {"name": "r"}) as spool:
        spool.write_metrics(1, {"train/loss": 0.5})
    with (spool.folder / LINES).open("ab") as stream:
        stream.write(b'{"kind":"metrics","step":2,"metr')

    assert metric_lines(spool.folder) == [(1, {"train/loss": 0.5})]
    with Spool.resume(tmp_path, spool.spool_id) as again:
        again.write_metrics(2, {"train/loss": 0.4})
    assert metric_lines(spool.folder) == [(1, {"train/loss": 0.5}), (2, {"train/loss": 0.4})]


def test_a_damaged_line_in_the_middle_is_named_by_file_and_byte(tmp_path: Path):
    with Spool.create(tmp_path, {"name": "r"}) as spool:
        first = (spool.folder / LINES).stat().st_size
        spool.write_metrics(1, {"train/loss": 0.5})
        spool.write_metrics(2, {"train/loss": 0.5})
    content = bytearray((spool.folder / LINES).read_bytes())
    content[first] = ord("?")
    (spool.folder / LINES).write_bytes(content)

    with pytest.raises(DataError, match=f"lines.jsonl is damaged at byte {first}"):
        list(read_lines(spool.folder))


def spool_and_die(folder: str) -> None:
    spool = Spool.create(Path(folder), {"name": "r"})
    for step in range(500):
        spool.write_metrics(step, {"train/loss": float(step)})
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_line_of_a_process_killed_at_once_is_there(commands: Commands, tmp_path: Path):
    spools, log = tmp_path / "spools", tmp_path / "log"
    process = commands.start_function(f"{__name__}:{spool_and_die.__name__}", [str(spools)], log)

    assert commands.wait(process, log) == Ending(-signal.SIGKILL, "")
    (folder,) = spools_in(spools)
    assert [step for step, _ in metric_lines(folder)] == list(range(500))


def test_a_living_run_cannot_be_resumed_and_its_holder_is_named(tmp_path: Path):
    with (
        Spool.create(tmp_path, {"name": "r"}) as spool,
        pytest.raises(BusyError, match=f"being worked on by process {os.getpid()} on"),
    ):
        Spool.resume(tmp_path, spool.spool_id)


def test_resuming_what_is_not_there_says_where_it_looked(tmp_path: Path):
    with pytest.raises(DataError, match=f"no run to resume at {tmp_path}/lost"):
        Spool.resume(tmp_path, "lost")


def test_a_full_disk_stops_with_a_message_and_leaves_whole_lines(tmp_path: Path):
    spool = Spool.create(tmp_path, {"name": "r"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (spool.folder / LINES).stat().st_size
    try:
        # The next line fits by half, as on a disk that fills up.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))
        with pytest.raises(CannotWriteError, match="disk is full"):
            spool.write_metrics(1, {"train/loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.write_metrics(2, {"train/loss": 0.4})
    spool.close()

    assert metric_lines(spool.folder) == [(2, {"train/loss": 0.4})]


def test_a_step_line_is_cheap(tmp_path: Path):
    metrics = {f"grad_norm/part{number}": 0.123456789 for number in range(12)}
    with Spool.create(tmp_path, {"name": "r"}) as spool:
        start = time.process_time()
        for step in range(2000):
            spool.write_metrics(step, metrics)
        seconds = (time.process_time() - start) / 2000

    # About 20 microseconds where it was measured. The limit is twenty times that, so that a busy machine passes and an
    # fsync per line, or a call to the store, does not.
    assert seconds < 400e-6
