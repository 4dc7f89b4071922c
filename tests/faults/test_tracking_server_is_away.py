"""Delivery to a real server that comes and goes: nothing lost, nothing doubled."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from recsys.tracking import delivery as delivery_module
from recsys.tracking import names
from recsys.tracking.delivery import Delivery, sync
from recsys.tracking.model_registry import NightlyModel, reconcile
from recsys.tracking.run import TrackedRun, start_run
from recsys.tracking.spool import Spool, read_lines, spools_in
from recsys.tracking.store import TrackingStore
from tests.faults.commands import Commands
from tests.tracking.servers import TrackingServer, free_port
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def fast_forwarding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.tracking.forwarder._SECONDS_BETWEEN_DELIVERIES", 0.1)
    monkeypatch.setattr("recsys.tracking.forwarder._SHORTEST_PAUSE", 0.2)
    monkeypatch.setattr("recsys.tracking.forwarder._LONGEST_BETWEEN_DELIVERIES", 0.2)


@pytest.fixture(scope="module")
def server(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(commands, tmp_path_factory.mktemp("server")) as running:
        yield running


def the_run(store: TrackingStore) -> tuple[MlflowClient, Run]:
    client = store.open()
    (run,) = client.search_runs([store.experiment_id(client)])
    return client, run


def points(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def expected(steps: int) -> list[tuple[int, float]]:
    return [(step, float(step)) for step in range(steps)]


def die_after(steps: int, run: TrackedRun) -> None:
    with run:
        for step in range(steps):
            run.log_step(step, {"train/loss": float(step)})
        raise RuntimeError("power cut")


def test_a_server_that_is_away_from_start_to_end_costs_no_time_and_sync_brings_everything(
    tmp_path: Path, server: TrackingServer, caplog: pytest.LogCaptureFixture
):
    away = TrackingStore(f"http://127.0.0.1:{free_port()}", "away", tmp_path)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), start_run(away, "r", {"seed": 1}, {"kind": "arm"}) as run:
        for step in range(2500):
            run.log_step(step, {"train/loss": float(step)})
        run.attach("notes/why.txt", "because")
        time.sleep(0.3)
    assert time.monotonic() - start < 10
    assert f"tracking offline, spooling to {run.spool_folder}" in caplog.text
    assert "recsys sync" in caplog.text

    store = TrackingStore(server.uri, "away", tmp_path)
    first, second = sync(store), sync(store)

    client, found = the_run(store)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "1"}
    assert points(client, found, "train/loss") == expected(2500)
    assert [file.path for file in client.list_artifacts(found.info.run_id, "notes")] == ["notes/why.txt"]
    assert (first.delivered, first.busy, second.lines) == (1, 0, 0)


def test_a_server_killed_in_the_middle_and_started_again_has_every_point_once(
    tmp_path: Path, server: TrackingServer, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        store = TrackingStore(server.uri, "restart", tmp_path)
        with start_run(store, "r", {}, {"kind": "arm"}) as run:
            for step in range(600):
                run.log_step(step, {"train/loss": float(step)})
                if step == 200:
                    wait_until(lambda: run.run_id is not None)
                    server.stop()
                if step == 400:
                    wait_until(lambda: "tracking offline" in caplog.text)
                    server.start()
            wait_until(lambda: "tracking is back" in caplog.text)

        client, found = the_run(store)
        assert found.info.status == "FINISHED"
        assert points(client, found, "train/loss") == expected(600)


def test_a_server_that_dies_before_the_end_gets_the_rest_and_the_end_by_sync(
    tmp_path: Path, server: TrackingServer, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        store = TrackingStore(server.uri, "end", tmp_path)
        with start_run(store, "r", {}, {"kind": "arm"}) as run:
            for step in range(300):
                run.log_step(step, {"train/loss": float(step)})
                if step == 200:
                    wait_until(lambda: run.run_id is not None)
                    server.stop()
            run.log_final({"test_auc/all": 0.7})
        assert "send it with `recsys sync`" in caplog.text
        server.start()
        _, unended = the_run(store)
        assert unended.info.status == "RUNNING"

        sync(store)
        sync(store)

        client, found = the_run(store)
        assert found.info.status == "FINISHED"
        assert points(client, found, "train/loss") == expected(300)
        assert points(client, found, "test_auc/all") == [(0, 0.7)]


def test_a_run_resumed_from_an_earlier_step_while_the_server_was_away_has_every_point_once(
    tmp_path: Path, server: TrackingServer
):
    away = TrackingStore(f"http://127.0.0.1:{free_port()}", "resumed", tmp_path)
    run = start_run(away, "r", {}, {"kind": "arm"})
    with pytest.raises(RuntimeError):
        die_after(60, run)
    store = TrackingStore(server.uri, "resumed", tmp_path)
    # From a checkpoint at step 40: the steps after it come again, at a later time.
    with start_run(store, "r", {}, {"kind": "arm"}, resume=run.spool_id) as again:
        for step in range(40, 100):
            again.log_step(step, {"train/loss": float(step)})

    client, found = the_run(store)
    assert found.info.status == "FINISHED"
    assert points(client, found, "train/loss") == expected(100)


def test_deliveries_that_cost_more_of_the_processor_come_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recsys.tracking.forwarder._SECONDS_BETWEEN_DELIVERIES", 0.01)
    monkeypatch.setattr("recsys.tracking.forwarder._LONGEST_BETWEEN_DELIVERIES", 60.0)
    made = {}
    for busy_seconds in (0.0, 0.05):
        calls: list[float] = []

        def drain(self: Delivery, busy_seconds: float = busy_seconds, calls: list[float] = calls) -> int:
            calls.append(began := time.thread_time())
            while time.thread_time() - began < busy_seconds:
                pass
            return 0

        monkeypatch.setattr(Delivery, "drain", drain)
        with start_run(TrackingStore.in_folder(tmp_path, "e"), "r", {}, {}):
            wait_until(lambda calls=calls: len(calls) > 0)
            time.sleep(1.0)
            made[busy_seconds] = len(calls)

    # A quarter per cent of the processor: the next one would come after 20 seconds.
    assert made[0.05] == 1
    assert made[0.0] > 5


def test_a_lost_answer_is_sent_again_and_stored_once(
    tmp_path: Path, server: TrackingServer, monkeypatch: pytest.MonkeyPatch
):
    store = TrackingStore(server.uri, "lost answers", tmp_path)
    client = store.open()
    with Spool.create(tmp_path, {"name": "r", "experiment": store.experiment, "tags": {}}) as spool:
        spool.write("params", {"params": {"seed": "1"}})
        for step in range(3):
            spool.write_metrics(step, {"train/loss": float(step)})
        spool.write("tags", {"tags": {"kind": "arm"}})
        spool.write("end", {"status": "FINISHED", "reason": ""})
        # Every batch reaches the store twice: the first time the process dies before it has noted the answer.
        sent = 0
        while True:
            with monkeypatch.context() as dying:
                dying.setattr(Delivery, "_save_progress", lambda self: None)
                Delivery(spool.folder, store, client).advance()
            if not Delivery(spool.folder, store, client).advance():
                break
            sent += 1

    _, found = the_run(store)
    assert sent == 5
    assert points(client, found, "train/loss") == expected(3)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "1"}


def record_and_die(uri: str, folder: str) -> None:
    with start_run(TrackingStore(uri, "killed", Path(folder)), "r", {}, {}) as run:
        for step in range(1000):
            run.log_step(step, {"train/loss": float(step)})
        wait_until(lambda: run.run_id is not None)
        for step in range(1000, 2000):
            run.log_step(step, {"train/loss": float(step)})
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_killed_without_warning_is_brought_in_whole_and_ended_as_killed(
    commands: Commands, tmp_path: Path, server: TrackingServer
):
    spools, log = tmp_path / "spools", tmp_path / "log"
    process = commands.start_function(f"{__name__}:{record_and_die.__name__}", [server.uri, str(spools)], log)
    ending = commands.wait(process, log)
    assert ending is not None
    assert ending.code == -signal.SIGKILL

    store = TrackingStore(server.uri, "killed", spools)
    sync(store)

    client, found = the_run(store)
    assert points(client, found, "train/loss") == expected(2000)
    assert found.info.status == "KILLED"
    assert found.data.tags[names.TAG_END_REASON] == "the process died before it could record why"


def test_a_living_run_is_left_to_itself(tmp_path: Path, server: TrackingServer):
    store = TrackingStore(server.uri, "alive", tmp_path)
    with Spool.create(tmp_path, {"name": "r", "experiment": "alive", "tags": {}}) as spool:
        report = sync(store)

    assert (report.delivered, report.busy) == (0, 1)
    assert [line["kind"] for line, _ in read_lines(spool.folder)] == ["run"]


def test_a_line_that_the_store_will_never_take_is_kept_aside_and_holds_nothing_up(
    tmp_path: Path, server: TrackingServer, caplog: pytest.LogCaptureFixture
):
    store = TrackingStore(server.uri, "refused", tmp_path)
    with Spool.create(tmp_path, {"name": "r", "experiment": "refused", "tags": {}}) as spool:
        spool.write("params", {"params": {"seed": "1"}})
        spool.write("params", {"params": {"seed": "2"}})
        spool.write_metrics(1, {"train/loss": 0.5})
        spool.write("end", {"status": "FINISHED", "reason": ""})
    with caplog.at_level(logging.WARNING):
        report = sync(store)

    client, found = the_run(store)
    assert report.refused == 1
    assert found.data.params == {"seed": "1"}
    assert points(client, found, "train/loss") == [(1, 0.5)]
    assert '"seed": "2"' in (spool.folder / "refused.jsonl").read_text()
    assert "refused.jsonl" in caplog.text


def test_another_store_gets_the_whole_run(tmp_path: Path, server: TrackingServer):
    local = TrackingStore.in_folder(tmp_path, "moved")
    with start_run(local, "r", {"seed": 1}, {}) as run:
        run.log_step(0, {"train/loss": 0.0})

    remote = TrackingStore(server.uri, "moved", local.spool_directory)
    sync(remote)

    client, found = the_run(remote)
    assert found.data.tags[names.TAG_SPOOL_ID] == run.spool_id
    assert points(client, found, "train/loss") == expected(1)


def test_many_metrics_go_in_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []

    class Recorder:
        def log_batch(self, run_id: str, metrics: list[object], synchronous: bool) -> None:
            sizes.append(len(metrics))
            if len(sizes) == 2:
                raise MlflowException("the connection broke")

    with Spool.create(tmp_path, {"name": "r", "experiment": "e", "tags": {}}) as spool:
        for step in range(500):
            spool.write_metrics(step, {f"m{number}": 1.0 for number in range(5)})
    monkeypatch.setattr(delivery_module.Delivery, "_send_run", lambda self, line: None)
    sender = Delivery(spool.folder, TrackingStore.in_folder(tmp_path, "e"), Recorder())  # type: ignore[arg-type]

    with pytest.raises(MlflowException):
        sender.drain()
    sender.drain()

    assert sizes == [1000, 1000, 1000, 500]
    assert spools_in(tmp_path) == [spool.folder]


def test_a_servers_registry_leads_to_the_model_and_is_mended_when_the_server_is_back(
    tmp_path: Path, server: TrackingServer
):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    store = TrackingStore(server.uri, "registered", tmp_path / "spool")
    with start_run(store, "night", {"seed": 1}, {"kind": "daily"}) as run:
        run.log_model("ranker", tmp_path / "model")
    model = NightlyModel("night", "2011-09-05", "promoted", "the first")

    def mend() -> bool:
        return reconcile(store, "shop", [model], "night", None, lambda name: run.spool_id)

    server.stop()
    assert not mend()
    server.start()
    assert mend()
    assert mend()

    client = store.open()
    (version,) = client.search_model_versions("name = 'registered.shop'")
    assert version.run_id == the_run(store)[1].info.run_id
    assert client.get_model_version_by_alias("registered.shop", "champion").tags == model.tags
    (output,) = the_run(store)[1].outputs.model_outputs
    assert version.source == client.get_logged_model(output.model_id).artifact_location
