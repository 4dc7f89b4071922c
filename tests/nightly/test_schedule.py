"""The Dagster wrapping is thin: partitions, order, retries and the schedule; every stage is the command itself."""

import datetime
import json
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines import schedule
from recsys.nightly.nightly_log import VERDICT_CHANGED, DailyStage

FIRST = datetime.date(2011, 9, 1)
DAY = "2011-09-03"


def told(outcome: str, message: str) -> str:
    return json.dumps({"outcome": outcome, "message": message})


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[str]], dict[str, tuple[str, int]]]:
    """Commands that were started, and what a stage's command prints and ends with in place of the real one."""
    real, started, answers = schedule.command, list[list[str]](), dict[str, tuple[str, int]]()

    def stand_in(date: datetime.date, stage: DailyStage, overrides: list[str]) -> list[str]:
        started.append(real(date, stage, overrides))
        printed, code = answers.get(stage, (told("done", f"{stage} is done"), 0))
        return [sys.executable, "-c", f"print({printed!r}); raise SystemExit({code})"]

    monkeypatch.setattr(schedule, "command", stand_in)
    return started, answers


def night(raise_on_error: bool = False) -> dg.ExecuteInProcessResult:
    found = schedule.definitions(["data=mine", "data.raw=rows"], FIRST, "0 3 * * *")
    job = found.resolve_job_def("nightly")
    return job.execute_in_process(partition_key=DAY, raise_on_error=raise_on_error)


def test_a_partition_runs_every_stage_in_order_by_the_one_command(commands) -> None:
    started, _ = commands
    assert night(raise_on_error=True).success
    assert [words[words.index("--stage") + 1] for words in started] == [
        "prepare",
        "check",
        "pretrain",
        "train",
        "evaluate",
        "promote",
    ]
    # The day's rows have arrived when the next day begins, which is the first that the run must not see.
    assert all(words[words.index("--date") + 1] == "2011-09-04" for words in started)
    assert all(words[1:4] == ["-m", "pipelines.cli", "daily"] for words in started)
    assert all(words[-2:] == ["data=mine", "data.raw=rows"] for words in started)


def test_a_failed_check_keeps_the_stages_behind_it_from_starting(commands) -> None:
    started, answers = commands
    answers["check"] = (told("stopped", "0 rows for 2011-09-03"), 65)
    assert not night().success
    assert [words[words.index("--stage") + 1] for words in started] == ["prepare", "check"]


def test_a_changed_verdict_is_no_failure(commands) -> None:
    _, answers = commands
    answers["promote"] = (told("verdict changed", "new: was open"), VERDICT_CHANGED)
    assert night().success


@pytest.mark.parametrize(("code", "is_hopeless"), [(2, True), (65, True), (70, False), (73, False), (75, False)])
def test_what_a_person_must_mend_is_not_tried_again(commands, code: int, is_hopeless: bool) -> None:
    _, answers = commands
    answers["prepare"] = ("recsys daily: something", code)
    context = dg.build_asset_context(partition_key=DAY)
    with pytest.raises(dg.Failure, match=f"exit code {code}: recsys daily: something") as raised:
        schedule._run(context, DAY, DailyStage.PREPARE, [])
    assert raised.value.allow_retries is not is_hopeless


def test_data_that_have_not_arrived_are_waited_for(commands) -> None:
    _, answers = commands
    answers["prepare"] = (told("waiting", "The data are complete before 2011-09-02."), 0)
    with pytest.raises(dg.Failure, match="complete before") as raised:
        schedule._run(dg.build_asset_context(partition_key=DAY), DAY, DailyStage.PREPARE, [])
    assert raised.value.allow_retries


def test_the_schedule_is_on_and_asks_for_the_day_that_has_ended() -> None:
    found = schedule.definitions(["data=mine"], FIRST, "0 3 * * *")
    nightly = found.resolve_schedule_def("every_night")
    assert nightly.default_status is dg.DefaultScheduleStatus.RUNNING
    at = datetime.datetime(2011, 9, 4, 3, tzinfo=datetime.UTC)
    request = nightly(dg.build_schedule_context(scheduled_execution_time=at))
    assert (request.partition_key, request.run_key) == (DAY, DAY)


def test_one_run_at_a_time_and_nothing_is_sent_to_the_makers() -> None:
    instance = yaml.safe_load((Path(schedule.__file__).parent / "dagster.yaml").read_text())
    assert instance["concurrency"]["runs"]["max_concurrent_runs"] == 1
    assert instance["telemetry"]["enabled"] is False
