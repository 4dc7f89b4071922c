"""The model registry follows the champions: one version a model, tags and aliases as decided, from any state."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from recsys.tracking import model_registry, names
from recsys.tracking.model_registry import NightlyModel, reconcile, registered_name
from recsys.tracking.run import start_run
from recsys.tracking.store import TrackingStore
from tests.tracking.servers import free_port

MONDAY = NightlyModel("monday", "2011-09-05", "promoted", "the first")
TUESDAY = NightlyModel("tuesday", "2011-09-06", "refused", "worse")
CHANGES = ("create", "set_registered", "set_model", "delete")
"""How the client's calls begin that change the store."""


class Nights:
    """A store with the runs of three nights, and the registry beside it."""

    def __init__(self, folder: Path, experiment: str = "shop") -> None:
        self.store = TrackingStore.in_folder(folder, experiment)
        self.spools: dict[str, str] = {}

    def run(self, artifact: str) -> str:
        """Record a night's run with its model; return the spool's id."""
        model = self.store.spool_directory.parent / f"model-{artifact}"
        model.mkdir(parents=True)
        (model / "MLmodel").write_text(yaml.safe_dump({"flavors": {}}))
        with start_run(self.store, f"daily/{artifact}", {"seed": 0}, {"kind": "daily"}) as run:
            run.log_model("ranker", model)
        self.spools[artifact] = run.spool_id
        return run.spool_id

    def mend(self, *models: NightlyModel, champion: str | None = None, challenger: str | None = None) -> bool:
        return reconcile(self.store, "shop", models, champion, challenger, lambda name: self.spools.get(name, ""))

    def held(self) -> dict[str, Any]:
        """Aliases by artifact, and the tags of every version."""
        client = self.store.open()
        versions = client.search_model_versions("name = 'shop'")
        by_number = {str(each.version): each.tags[names.TAG_ARTIFACT] for each in versions}
        assert len(set(by_number.values())) == len(versions)
        aliases = client.get_registered_model("shop").aliases
        return {
            "aliases": {alias: by_number[str(number)] for alias, number in aliases.items()},
            "tags": {each.tags[names.TAG_ARTIFACT]: each.tags for each in versions},
        }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    nights = Nights(tmp_path_factory.mktemp("store"))
    for artifact in ("monday", "tuesday", "wednesday"):
        nights.run(artifact)
    return nights


@pytest.fixture
def nights(recorded: Nights) -> Iterator[Nights]:
    """The runs with nothing registered yet."""
    yield recorded
    client = recorded.store.open()
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


def test_each_model_is_a_version_of_its_run_with_what_became_of_it(nights: Nights):
    assert nights.mend(MONDAY, TUESDAY, champion="monday", challenger="tuesday")

    assert nights.held() == {
        "aliases": {"champion": "monday", "challenger": "tuesday"},
        "tags": {
            "monday": {"artifact": "monday", "date": "2011-09-05", "decision": "promoted", "reason": "the first"},
            "tuesday": {"artifact": "tuesday", "date": "2011-09-06", "decision": "refused", "reason": "worse"},
        },
    }


def test_a_version_leads_to_its_run_and_to_the_files_of_its_model(nights: Nights):
    nights.mend(MONDAY, champion="monday")

    client = nights.store.open()
    version = client.get_model_version_by_alias("shop", "champion")
    assert client.get_run(version.run_id).data.tags[names.TAG_SPOOL_ID] == nights.spools["monday"]
    place = Path(client.get_model_version_download_uri("shop", version.version).removeprefix("file://"))
    assert (place / "MLmodel").is_file()


def test_promotion_rollback_and_repetition_leave_what_was_decided_last(nights: Nights):
    nights.mend(MONDAY, TUESDAY, champion="monday", challenger="tuesday")
    wednesday = NightlyModel("wednesday", "2011-09-07", "promoted", "better")
    replaced = MONDAY.but(replaced_by="wednesday")

    for _ in range(2):
        assert nights.mend(replaced, TUESDAY, wednesday, champion="wednesday")
        held = nights.held()
        assert held["aliases"] == {"champion": "wednesday"}
        assert held["tags"]["monday"] == MONDAY.tags | {"replaced_by": "wednesday"}

    nights.mend(MONDAY, TUESDAY, wednesday.but(rolled_back="complaints"), champion="monday")
    held = nights.held()
    assert held["aliases"] == {"champion": "monday"}
    assert held["tags"]["monday"] == MONDAY.tags
    assert held["tags"]["wednesday"] == wednesday.tags | {"rolled_back": "complaints"}


def test_in_line_already_nothing_is_sent(nights: Nights, monkeypatch: pytest.MonkeyPatch):
    nights.mend(MONDAY, TUESDAY, champion="monday", challenger="tuesday")
    changes = changing_calls(monkeypatch)

    assert nights.mend(MONDAY, TUESDAY, champion="monday", challenger="tuesday")
    assert changes == []


def test_killed_before_or_after_any_change_the_next_start_brings_all_into_line(nights: Nights, monkeypatch):
    steps = [
        ([MONDAY], "monday", None),
        ([MONDAY, TUESDAY], "monday", "tuesday"),
        ([MONDAY.but(replaced_by="wednesday"), TUESDAY, NightlyModel("wednesday", "2011-09-07", "promoted", "b")],
         "wednesday", None),
    ]  # fmt: skip
    for models, champion, challenger in steps:
        for number in range(8):
            for is_done in (False, True):
                with monkeypatch.context() as patched, Attempt():
                    changing_calls(patched, killed_at=number, is_done=is_done)
                    nights.mend(*models, champion=champion, challenger=challenger)
        assert nights.mend(*models, champion=champion, challenger=challenger)
        aliases = {names.ALIAS_CHAMPION: champion, names.ALIAS_CHALLENGER: challenger}
        assert nights.held() == {
            "aliases": {alias: artifact for alias, artifact in aliases.items() if artifact},
            "tags": {model.artifact: model.tags for model in models},
        }


def test_a_run_that_has_not_arrived_gets_its_version_later_and_moves_no_alias_before(nights: Nights):
    late = NightlyModel("late", "2011-09-08", "promoted", "better")
    nights.mend(MONDAY, champion="monday")

    assert not nights.mend(MONDAY, late, champion="late")
    assert nights.held()["aliases"] == {"champion": "monday"}

    if "late" not in nights.spools:
        nights.run("late")
    assert nights.mend(MONDAY, late, champion="late")
    assert nights.held()["aliases"] == {"champion": "late"}


def test_a_version_that_somebody_deleted_is_made_again_with_its_alias(nights: Nights):
    nights.mend(MONDAY, champion="monday")
    client = nights.store.open()
    client.delete_model_version("shop", client.get_model_version_by_alias("shop", "champion").version)

    assert nights.mend(MONDAY, champion="monday")
    assert nights.held()["aliases"] == {"champion": "monday"}


def test_a_server_that_is_away_is_one_notice_and_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    away = TrackingStore(f"http://127.0.0.1:{free_port()}", "shop", tmp_path / "spool")
    with caplog.at_level(logging.WARNING):
        assert not reconcile(away, "shop", [MONDAY], "monday", None, lambda name: "")
    (record,) = caplog.records
    assert "the model registry is as it was and is mended by the next run" in record.getMessage()


def test_without_any_decision_nothing_is_opened(tmp_path: Path):
    assert reconcile(TrackingStore.in_folder(tmp_path / "none", "shop"), "shop", [], None, None, lambda name: "")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        ("shop", "shop"),
        ("a/b:c", "a%2Fb%3Ac.shop"),
        ("100%", "100%25.shop"),
        ("it's", "it%27s.shop"),
        ("..", "%2E%2E%2Eshop"),
        ("café 5", "café 5.shop"),
    ],
)
def test_any_experiment_gives_a_name_that_the_registry_takes_and_a_search_finds(
    nights: Nights, experiment: str, name: str
):
    assert registered_name(experiment, "shop") == name
    client: MlflowClient = nights.store.open()
    client.create_registered_model(name)
    assert [found.name for found in client.search_registered_models(f"name = '{name}'")] == [name]


class Killed(BaseException):
    """What ends a process in the middle of its work."""


class Attempt:
    """Within it the work may be killed."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is Killed


def changing_calls(monkeypatch: pytest.MonkeyPatch, killed_at: int = -1, is_done: bool = False) -> list[str]:
    """Note the client's calls that change the store, and die at one of them, before or after it is done."""
    noted: list[str] = []

    def watched(name: str, call: Any) -> Any:
        def noting(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
            noted.append(name)
            is_last = len(noted) - 1 == killed_at
            if is_last and not is_done:
                raise Killed
            answer = call(self, *arguments, **named)
            if is_last:
                raise Killed
            return answer

        return noting

    for name in dir(model_registry.MlflowClient):
        if name.startswith(CHANGES) and not name.startswith("delete_run"):
            monkeypatch.setattr(MlflowClient, name, watched(name, getattr(MlflowClient, name)))
    return noted
