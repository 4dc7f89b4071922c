"""A challenger's decision where it counts: the champion file, the run's record, the day's folder, the registry."""

import datetime
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from recsys.config import RunConfig
from recsys.errors import BusyError, DataError
from recsys.nightly import promote as promotion
from recsys.nightly.champion_comparison import COMPARISON, ChampionComparison
from recsys.nightly.champion_decay import decay_of
from recsys.nightly.golden_rows import GoldenCheck
from recsys.nightly.promote import DECISION, load_decision, mirror_champions, promote
from recsys.run.folder import RESULT
from recsys.run.record import open_store
from recsys.scheduling import champion_file
from recsys.scheduling.promotion import AucDifference
from recsys.tracking import names
from tests.nightly.made_nights import MadeNights, result
from tests.tracking.servers import free_port

MONDAY = datetime.date(2011, 9, 5)
BETTER, WORSE = AucDifference(0.02, 0.01, 0.03), AucDifference(-0.02, -0.03, -0.01)
NIGHTS = ("monday", "tuesday", "wednesday")


@pytest.fixture(scope="module")
def spools(made: MadeNights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three recorded runs with a model each, of which nothing is read but its name."""
    model = tmp_path_factory.mktemp("model")
    (model / "MLmodel").write_text("flavors: {}\n")
    return {name: made.tracked(name, model) for name in NIGHTS}


@pytest.fixture
def config(made: MadeNights, spools: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[RunConfig]:
    """The runs' folders with nothing compared, decided or registered yet."""
    monkeypatch.setattr(champion_file, "_now", lambda: "2011-09-10T00:00:00+00:00")
    for name in NIGHTS:
        (made.root / name).mkdir(exist_ok=True)
        (made.root / name / RESULT).write_text(result(name, spools[name]).to_json())
    yield made.config
    for path in (made.champions.path, *made.root.glob(f"*/{COMPARISON}"), *made.root.glob(f"*/{DECISION}")):
        path.unlink(missing_ok=True)
    client = open_store(made.config).open()
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


def compare(made: MadeNights, name: str, champion: str | None, overall: AucDifference = BETTER) -> Path:
    """Write the comparison of a night; return its folder."""
    day = MONDAY + datetime.timedelta(days=NIGHTS.index(name))
    since = MONDAY + datetime.timedelta(days=NIGHTS.index(champion)) if champion else None
    falling = {str(since + datetime.timedelta(days=n)): 0.7 - 0.1 * n for n in range(3)} if since else {}
    found = ChampionComparison(
        day,
        champion,
        since,
        None,
        rows=240,
        auc={"challenger": 0.72} | ({"champion": 0.7} if champion else {}),
        calibration_error={"challenger": 0.05},
        differences={"all": overall} if champion else {},
        golden=GoldenCheck(70, 0.0, 1e-6, ""),
        decay=decay_of(since, falling) if since else None,
    )
    (made.root / name / COMPARISON).write_text(found.to_json())
    return made.root / name


def promoted(made: MadeNights, config: RunConfig, name: str, champion: str | None, **how: Any) -> bool:
    folder = compare(made, name, champion, **how)
    return promote(config, folder, made.champions).promote


def registered(config: RunConfig) -> dict[str, str]:
    """Alias -> artifact."""
    client = open_store(config).open()
    aliases = client.get_registered_model("simulated").aliases
    versions = {each.version: each.tags["artifact"] for each in client.search_model_versions("name = 'simulated'")}
    return {alias: versions[int(number)] for alias, number in aliases.items()}


def run_of(config: RunConfig, name: str) -> Any:
    store = open_store(config)
    client = store.open()
    where = f"tags.mlflow.runName = 'daily/{name}'"
    (run,) = client.search_runs([store.experiment_id(client)], where)
    return run


def test_promoted_and_refused_nights_stand_in_file_folder_record_and_registry(made: MadeNights, config: RunConfig):
    assert promoted(made, config, "monday", None)
    assert promoted(made, config, "tuesday", "monday")
    assert not promoted(made, config, "wednesday", "tuesday", overall=WORSE)

    assert [(each.what, each.artifact) for each in made.champions.events()] == [
        ("promoted", "monday"),
        ("promoted", "tuesday"),
        ("refused", "wednesday"),
    ]
    document = json.loads((made.root / "wednesday" / DECISION).read_text())
    assert (document["date"], document["promote"], document["champion"]) == ("2011-09-07", False, "tuesday")
    assert document["reasons"][0].startswith("Over all rows the challenger is worse")
    assert registered(config) == {"champion": "tuesday", "challenger": "wednesday"}
    run = run_of(config, "wednesday")
    assert run.data.tags[names.TAG_DECISION] == "refused"
    assert run.data.tags[names.TAG_CHAMPION] == "tuesday"
    assert run.data.tags[names.TAG_REASON].startswith("Over all rows the challenger is worse")
    assert run.data.tags[names.TAG_CHAMPION_DECAY].startswith("The champion of 2011-09-06 loses 0.1000 AUC a day")
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("champion/")}
    assert found == {
        "champion/auc": 0.7,
        "champion/challenger_calibration_error": 0.05,
        "champion/difference": -0.02,
        "champion/difference_low": -0.03,
        "champion/difference_high": -0.01,
        "champion/slope": pytest.approx(-0.1),
        "champion/slope_error": pytest.approx(0.0, abs=1e-9),
        "champion/days": 3.0,
    }
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("step", ["settle", "start_run", "write_text_atomically", "reconcile"])
@pytest.mark.parametrize("is_done", [False, True])
def test_killed_at_any_step_the_next_start_leaves_what_an_unbroken_one_leaves(
    made: MadeNights, config: RunConfig, monkeypatch: pytest.MonkeyPatch, step: str, is_done: bool
):
    promoted(made, config, "monday", None)
    holder: Any = champion_file.ChampionFile if step == "settle" else promotion
    call = getattr(holder, step)

    def killed(*arguments: Any, **named: Any) -> None:
        if is_done:
            call(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(holder, step, killed)
    with pytest.raises(KeyboardInterrupt):
        promoted(made, config, "tuesday", "monday")
    monkeypatch.setattr(holder, step, call)
    kept = made.champions.path.read_bytes()

    assert promoted(made, config, "tuesday", "monday")

    champion = made.champions.current()
    assert champion is not None
    assert champion.artifact == "tuesday"
    assert len(made.champions.events()) == 2
    if (step, is_done) != ("settle", False):
        assert made.champions.path.read_bytes() == kept
    assert load_decision(made.root / "tuesday") is not None
    assert registered(config) == {"champion": "tuesday"}
    assert run_of(config, "tuesday").data.tags[names.TAG_DECISION] == "promoted"


def test_a_comparison_with_a_champion_of_before_wins_nothing_and_leaves_nothing(made: MadeNights, config: RunConfig):
    promoted(made, config, "monday", None)
    compare(made, "tuesday", "monday")
    folder = compare(made, "wednesday", "monday")
    assert promote(config, made.root / "tuesday", made.champions).promote

    with pytest.raises(BusyError, match=r"became tuesday, .* while wednesday was being compared with monday"):
        promote(config, folder, made.champions)

    assert load_decision(folder) is None
    assert registered(config) == {"champion": "tuesday"}


def test_without_a_comparison_nothing_is_decided(made: MadeNights, config: RunConfig):
    with pytest.raises(DataError, match=COMPARISON):
        promote(config, made.root / "monday", made.champions)
    assert made.champions.current() is None


def test_a_tracking_server_that_is_away_stops_nothing_and_the_next_start_mirrors_all(
    made: MadeNights, config: RunConfig, caplog: pytest.LogCaptureFixture
):
    away = replace(config, tracking=replace(config.tracking, uri=f"http://127.0.0.1:{free_port()}"))
    with caplog.at_level(logging.WARNING, "recsys.tracking"):
        assert promoted(made, away, "monday", None)
    assert "the model registry is as it was" in caplog.text
    assert load_decision(made.root / "monday") is not None

    assert mirror_champions(config, made.champions)
    assert registered(config) == {"champion": "monday"}


def test_a_run_without_its_spool_is_decided_on_with_a_notice(
    made: MadeNights, config: RunConfig, caplog: pytest.LogCaptureFixture
):
    (made.root / "monday" / RESULT).write_text(result("monday", "gone").to_json())
    with caplog.at_level(logging.WARNING, "recsys.nightly"):
        assert promoted(made, config, "monday", None)
    assert "monday is not in its record" in caplog.text


def test_rolling_back_names_the_champion_and_moves_the_alias(
    made: MadeNights, config: RunConfig, capsys: pytest.CaptureFixture[str]
):
    promoted(made, config, "monday", None)
    promoted(made, config, "tuesday", "monday")

    assert main(["rollback", "--reason", "complaints", *made.overrides[:2]]) == 0

    assert "The champion of simulated is monday again: the run of 2011-09-05" in capsys.readouterr().out
    assert registered(config) == {"champion": "monday"}
    client = open_store(config).open()
    tags = {each.tags["artifact"]: each.tags for each in client.search_model_versions("name = 'simulated'")}
    assert tags["tuesday"]["rolled_back"] == "complaints"
    assert "replaced_by" not in tags["monday"]
    assert main(["rollback", "--reason", "again", *made.overrides[:2]]) == 2
    assert "holds no champion before the current one" in capsys.readouterr().err


def test_rolling_back_where_nothing_was_promoted_is_a_mistake_of_usage(tmp_path: Path, capsys):
    assert main(["rollback", "--reason", "why", "data=simulated", f"runtime.runs={tmp_path}"]) == 2
    assert "nothing was promoted yet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
