"""Opening a store: fresh ones by many at once, absent servers, and addresses that mean nothing."""

import time
from pathlib import Path

import pytest

from recsys.errors import ServiceError, UsageError
from recsys.tracking.run import start_run
from recsys.tracking.store import TrackingStore
from tests.faults.commands import Commands, Ending
from tests.recorded import recorded_table
from tests.tracking.servers import free_port


def record_arm(folder: str, number: int) -> None:
    with start_run(
        TrackingStore.in_folder(Path(folder), "fresh"), f"s{number}", {"seed": number}, {"kind": "arm"}
    ) as run:
        for step in range(50):
            run.log_step(step, {"train/loss": float(step), "train/epoch": 0.0})


def test_eight_runs_at_once_on_a_fresh_store_all_succeed(commands: Commands, tmp_path: Path):
    runs, logs = tmp_path / "runs", [tmp_path / f"log-{number}" for number in range(8)]
    function = f"{__name__}:{record_arm.__name__}"
    arms = [commands.start_function(function, [str(runs), number], log) for number, log in enumerate(logs)]

    assert [commands.wait(arm, log) for arm, log in zip(arms, logs, strict=True)] == [Ending(0, "")] * 8
    table = recorded_table(TrackingStore.in_folder(runs, "fresh"))
    assert sorted(table["param.seed"]) == list("01234567")
    assert table["metric.train/loss"].tolist() == [49.0] * 8


def test_an_absent_server_is_noticed_within_seconds_and_named(tmp_path: Path):
    store = TrackingStore(f"http://user:secret@127.0.0.1:{free_port()}", "e", tmp_path)

    start = time.monotonic()
    with pytest.raises(ServiceError, match="does not answer") as caught:
        store.open()
    assert time.monotonic() - start < 5
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_of_no_known_kind_is_refused_with_what_is_expected(tmp_path: Path):
    with pytest.raises(UsageError, match=r"'\./mlruns' is of no known kind; expected `sqlite"):
        TrackingStore("./mlruns", "e", tmp_path)


def test_a_deleted_experiment_is_named_with_the_way_back(tmp_path: Path):
    store = TrackingStore.in_folder(tmp_path, "gone")
    client = store.open()
    client.delete_experiment(store.experiment_id(client))

    with pytest.raises(ServiceError, match=r"'gone' .* is deleted\. Restore it with"):
        store.experiment_id(client)


@pytest.mark.parametrize("name", ["100% a%20b", "what?", "a#b;c"])
def test_any_name_of_a_folder_is_just_a_name(name: str, tmp_path: Path):
    store = TrackingStore.in_folder(tmp_path / name, "it's 50%?")
    with start_run(store, "run", {"seed": 1}, {"kind": "arm"}) as run:
        run.log_step(0, {"train/loss": 1.0})

    assert (tmp_path / name / "mlflow.db").is_file()
    assert recorded_table(store)["metric.train/loss"].tolist() == [1.0]
    assert [path.name for path in tmp_path.iterdir()] == [name]
