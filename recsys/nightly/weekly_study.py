"""The study of `ablation`, done again every week on the newest window: has the answer changed for somebody?"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.config.overrides import override
from recsys.files import ensure_writable, write_text_atomically
from recsys.nightly.dated import dated, window_of
from recsys.nightly.day import DailyResult
from recsys.nightly.hooks import call_hook
from recsys.nightly.nightly_log import DayOutcome, NightlyLog, Tell
from recsys.nightly.places import NightlyRoot
from recsys.nightly.trail import record_on_run
from recsys.progress import Progress
from recsys.run.folder import read_record
from recsys.run.prepare import SPLIT_DATES
from recsys.study import ablate
from recsys.tracking import names

_STAGE = "study"
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class WeeklyVerdicts:
    """What a week's study said.

    Attributes:
        study: its id.
        verdicts: "<contrast>: <segment>" -> verdict, overall among them.
        changes: a sentence for each that is another than in the study before.
    """

    study: str
    verdicts: Mapping[str, str]
    changes: tuple[str, ...]


def after(
    overrides: Sequence[str], config: RunConfig, result: DailyResult, progress: Progress, tell: Tell
) -> DailyResult:
    """Do the week's study after a day's run, if it is the day for it and not done; log and tell what has changed.

    Returns:
        `result` with the changes.
    """
    date = result.date
    if config.daily.study.weekday != _WEEKDAYS[date.weekday()] or result.folder is None:
        return result
    root = NightlyRoot.of(config)
    path = root.studies / f"{date}.json"
    log = NightlyLog(root.log, tell)
    if path.is_file():
        return replace(result, verdict_changes=_read(path).changes)
    ensure_writable(root.studies)
    log.add(date, _STAGE, DayOutcome.STARTED, "The week's study begins.")
    study = ablate.run([*overrides, *_dates(config, date)], progress)
    verdicts = _verdicts(study)
    found = WeeklyVerdicts(study.id, verdicts, _changes(_before(root.studies, date), verdicts))
    for change in found.changes:
        call_hook(config.daily.hooks.verdict, log.add(date, _STAGE, DayOutcome.CHANGED, change, result.folder.path))
    tags = {names.TAG_WEEKLY_STUDY: study.id, names.TAG_VERDICT_CHANGED: " ".join(found.changes) or "no"}
    record_on_run(config, result.folder, tags)
    # Last, so that a killed one tells it all again rather than never.
    document = {"study": study.id, "verdicts": dict(verdicts), "changes": list(found.changes)}
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")
    log.add(date, _STAGE, DayOutcome.DONE, study.verdict, result.folder.path)
    return replace(result, verdict_changes=found.changes)


def _dates(config: RunConfig, date: datetime.date) -> list[str]:
    data = dated(config, window_of(config, date)).data
    return [override(f"data.{name}", getattr(data, name)) for name in SPLIT_DATES]


def _verdicts(study: ablate.FinishedStudy) -> dict[str, str]:
    return {
        f"{each.contrast.first} against {each.contrast.second}: {difference.segment}": str(difference.verdict)
        for each in study.comparisons
        for difference in each.differences
        if difference.metric == ablate.DECISIVE
    }


def _before(folder: Path, date: datetime.date) -> Mapping[str, str]:
    earlier = [path for path in sorted(folder.glob("????-??-??.json")) if path.stem < date.isoformat()]
    return _read(earlier[-1]).verdicts if earlier else {}


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        f"{name.replace(f': {ALL}', ', overall')}: the verdict was `{before[name]}` and is `{verdict}` now."
        for name, verdict in now.items()
        if name in before and before[name] != verdict
    )


def _read(path: Path) -> WeeklyVerdicts:
    def read(text: str) -> WeeklyVerdicts:
        document = json.loads(text)
        return WeeklyVerdicts(document["study"], document["verdicts"], tuple(document["changes"]))

    return read_record(path, read)
