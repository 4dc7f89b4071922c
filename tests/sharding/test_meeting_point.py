"""Processes meet at the launcher's store whatever an earlier start left there, and say who did not come."""

import threading
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import Store, TCPStore

from recsys.errors import ServiceError
from recsys.sharding import meeting_point
from recsys.sharding.meeting_point import leave_for_later_starts, left_by_earlier_start, meet


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The launcher's store, which outlives the processes of a start."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(meeting_point, "_job", None)
    return store


def start(size: int) -> list[Store]:
    """Let so many processes meet; each is a thread here."""
    found: dict[int, Store] = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: meet(rank, size, timedelta(seconds=20))}))
        for rank in range(size)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [found[rank] for rank in range(size)]


def test_a_restarted_job_sees_nothing_of_the_start_before_but_what_was_left_for_it(kept: TCPStore):
    first = start(3)
    first[0].set("address", "of a process that has died")
    assert all(store.check(["address"]) for store in first)
    assert left_by_earlier_start("run") == ""
    leave_for_later_starts("run", "runs/1")

    second = start(3)

    assert not any(store.check(["address"]) for store in second)
    second[2].set("address", "of one that lives")
    assert bytes(second[0].get("address")) == b"of one that lives"
    assert left_by_earlier_start("run") == "runs/1"


def test_who_did_not_come_is_said_within_the_time_out(kept: TCPStore):
    with pytest.raises(ServiceError, match=r"Of 3 processes 2 did not come within 0\.2 s: number 1, 2\..*exchange_sec"):
        meet(0, 3, timedelta(seconds=0.2))
    with pytest.raises(ServiceError, match=r"Process 1 waited 0\.2 s for the first process, which did not answer"):
        meet(1, 3, timedelta(seconds=0.2))


def test_a_store_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ServiceError, match="Process 1 of 2 cannot reach the job's store at localhost:1"):
        meet(1, 2, timedelta(seconds=1))
