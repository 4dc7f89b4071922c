"""The weekly study raises a flag when it says something else than the one before, and only then."""

import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.ablation.comparison import Verdict
from recsys.config.compose import compose_config
from recsys.nightly import weekly_study
from recsys.nightly.day import DailyResult
from recsys.nightly.nightly_log import DayOutcome, NightlyEvent
from recsys.nightly.places import DayFolder, NightlyRoot
from recsys.progress import silent
from recsys.scheduling.promotion import Decision
from recsys.scheduling.window import Readiness

SUNDAY = datetime.date(2011, 9, 4)
OVERRIDES = ("data=online_retail", "experiment=frozen_vs_finetuned", "daily.study.weekday=sunday")


class Weeks:
    """Studies that say what a test wants, in place of trained ones."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.overrides = [*OVERRIDES, f"runtime.runs={root}/runs", "data.raw=nowhere"]
        self.config = compose_config(self.overrides)
        self.asked: list[list[str]] = []
        self.told: list[NightlyEvent] = []
        self.tags: list[dict[str, str]] = []
        self.says: dict[str, Verdict] = {}
        monkeypatch.setattr(weekly_study.ablate, "run", self._study)
        monkeypatch.setattr(weekly_study, "record_on_run", lambda config, folder, tags: self.tags.append(tags))

    def _study(self, overrides: list[str], progress: object) -> Any:
        self.asked.append(overrides)
        contrast = SimpleNamespace(first="frozen", second="end-to-end")
        differences = [
            SimpleNamespace(metric=metric, segment=segment, verdict=verdict)
            for segment, verdict in self.says.items()
            for metric in ("auc", "log_loss")
        ]
        comparisons = [SimpleNamespace(contrast=contrast, differences=differences)]
        return SimpleNamespace(id=f"study-{len(self.asked)}", comparisons=comparisons, verdict="Either will do.")

    def after(self, date: datetime.date, **says: Verdict) -> tuple[str, ...]:
        self.says = says
        folder = DayFolder(NightlyRoot.of(self.config).path / f"{date}-0a0a0a0a")
        folder.path.mkdir(parents=True, exist_ok=True)
        result = DailyResult(date, Readiness.GO, "", folder, Decision(True, ()))
        return weekly_study.after(self.overrides, self.config, result, silent, self.told.append).verdict_changes


@pytest.fixture
def weeks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weeks:
    return Weeks(tmp_path, monkeypatch)


def test_the_first_study_changes_nothing_and_another_verdict_for_a_segment_is_a_flag(weeks: Weeks) -> None:
    assert weeks.after(SUNDAY, all=Verdict.EQUIVALENT, new=Verdict.OPEN) == ()
    changes = weeks.after(SUNDAY + datetime.timedelta(7), all=Verdict.EQUIVALENT, new=Verdict.WORSE)
    assert changes == ("frozen against end-to-end: new: the verdict was `not enough evidence` and is `worse` now.",)
    assert [tags["verdict_changed"] for tags in weeks.tags] == ["no", changes[0]]
    assert [event.message for event in weeks.told if event.outcome is DayOutcome.CHANGED] == [changes[0]]


def test_it_is_held_against_the_newest_study_before_it(weeks: Weeks) -> None:
    weeks.after(SUNDAY, all=Verdict.BETTER)
    weeks.after(SUNDAY + datetime.timedelta(7), all=Verdict.OPEN)
    assert weeks.after(SUNDAY + datetime.timedelta(14), all=Verdict.OPEN) == ()


def test_done_already_it_is_not_done_again_and_says_the_same(weeks: Weeks) -> None:
    weeks.after(SUNDAY, all=Verdict.BETTER)
    first = weeks.after(SUNDAY + datetime.timedelta(7), all=Verdict.OPEN)
    assert weeks.after(SUNDAY + datetime.timedelta(7), all=Verdict.WORSE) == first != ()
    assert len(weeks.asked) == 2


def test_other_days_have_none(weeks: Weeks) -> None:
    assert weeks.after(SUNDAY + datetime.timedelta(1), all=Verdict.BETTER) == ()
    assert weeks.asked == []


def test_the_study_learns_from_the_newest_window(weeks: Weeks) -> None:
    weeks.after(SUNDAY, all=Verdict.OPEN)
    ((*_, train, validation, test, end),) = weeks.asked
    assert (validation, test, end) == (
        "data.validation_start=2011-08-07",
        "data.test_start=2011-08-21",
        "data.test_end=2011-09-04",
    )
    assert train == "data.train_start=2010-08-07"


def test_a_killed_study_is_done_again_and_tells_it_again(weeks: Weeks, monkeypatch: pytest.MonkeyPatch) -> None:
    weeks.after(SUNDAY, all=Verdict.BETTER)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weekly_study, "record_on_run", dies)
        with pytest.raises(KeyboardInterrupt):
            weeks.after(SUNDAY + datetime.timedelta(7), all=Verdict.WORSE)
    assert len(weeks.after(SUNDAY + datetime.timedelta(7), all=Verdict.WORSE)) == 1
    stored = json.loads((NightlyRoot.of(weeks.config).studies / "2011-09-11.json").read_text())
    assert stored["verdicts"] == {"frozen against end-to-end: all": "worse"}
