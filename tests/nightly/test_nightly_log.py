"""The log of scheduled runs: one line per decision, readable after a crash."""

import json
from datetime import date
from pathlib import Path

from recsys.nightly.nightly_log import DailyStage, DayOutcome, NightlyEvent, NightlyLog

DAY = date(2011, 9, 1)


def test_every_event_is_a_line_of_json_and_is_told(tmp_path: Path) -> None:
    told: list[NightlyEvent] = []
    log = NightlyLog(tmp_path / "log.jsonl", told.append)
    log.add(DAY, DailyStage.TRAIN, DayOutcome.STARTED, "Training from scratch.", tmp_path / "2011-09-01-0a0a0a0a")
    log.add(DAY, "study", DayOutcome.CHANGED, "Für `new`: anders.")

    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines())
    assert (first["date"], first["stage"], first["outcome"]) == ("2011-09-01", "train", "started")
    assert first["folder"] == "2011-09-01-0a0a0a0a"
    assert second["message"] == "Für `new`: anders."
    assert [*log.events()] == told


def test_a_torn_line_costs_neither_the_one_before_nor_the_one_behind(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = NightlyLog(path)
    log.add(DAY, DailyStage.CHECK, DayOutcome.WARNING, "first")
    with path.open("a") as stream:
        stream.write('{"time": "2011-09-01T00:00:00+00:00", "date": "20')
    log.add(DAY, DailyStage.CHECK, DayOutcome.WARNING, "second")

    assert [event.message for event in log.events()] == ["first", "second"]


def test_a_log_that_is_not_there_has_no_events(tmp_path: Path) -> None:
    assert [*NightlyLog(tmp_path / "log.jsonl").events()] == []
