"""A scheduled run: window, prepare, train, evaluate, compare with the champion, promote or not; safe to start twice."""

import dataclasses
import datetime
import tempfile
from dataclasses import dataclass
from pathlib import Path

from recsys.config import RunConfig, TableData
from recsys.datasets.database import temporary_database
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.event_times import event_times
from recsys.errors import UsageError
from recsys.files import ensure_writable, fingerprint_of
from recsys.locks import held_lock
from recsys.nightly.champion_comparison import compare_with_champion
from recsys.nightly.promote import champion_file, load_decision, promote
from recsys.progress import Progress
from recsys.run import prepare, pretrain, train
from recsys.run.folder import CHECKPOINTS, DAILY, RunIdentity, load_result
from recsys.run.result_keys import code_of, rows_of, settings_of
from recsys.run.streams import RANKING_TEST, TEST, TRAIN, VALIDATION
from recsys.scheduling.promotion import Decision, decide
from recsys.scheduling.window import Readiness, Window, complete_days, readiness, window_before

# The rows say which days were learnt from and measured on; the tower goes in by its own key; of a study's settings the
# comparison of two models takes the number of resamples alone.
_NO_EFFECT_ON_DAY = (
    *("data", "tower", "daily.train_days", "daily.validation_days", "daily.test_days"),
    *(f"ablation.{name}" for name in ("name", "grid", "seeds", "contrast", "margin", "processes", "tune")),
)


@dataclass(frozen=True)
class DailyResult:
    """What a scheduled run did: whether it ran, in one sentence, and its decision if it took one."""

    readiness: Readiness
    reason: str
    folder: Path
    decision: Decision | None


def run(config: RunConfig, date: datetime.date, progress: Progress) -> DailyResult:
    """Train on the window before `date`, and promote the result if it beats the champion.

    Raises:
        UsageError: the source's splits cannot be moved to a date.
        BusyError: another scheduled run for the same data is under way.
        DataError: the data begin after the window does.
    """
    daily = config.daily
    window = window_before(
        date,
        train_days=daily.train_days or daily.warm_days,
        validation_days=daily.validation_days,
        test_days=daily.test_days,
    )
    dated = _dated(config, window)
    root = config.runtime.runs / config.data.name / "daily"
    ensure_writable(root)
    with held_lock(root / ".daily.lock", f"The scheduled run of {config.data.name}"):
        # With prepared rows the key is known at once, and with it whether this day has been decided.
        prepared = prepare.prepared(dated)
        if prepared and (earlier := _earlier_result(_folder(root, date, dated, prepared), window)):
            return earlier
        state, reason = readiness(window, complete_days(*_first_and_newest(config, progress)), is_done=False)
        if state is not Readiness.GO:
            return DailyResult(state, reason, root, None)
        encoded = prepare.run(dated, progress)
        folder = _folder(root, date, dated, encoded)
        if earlier := _earlier_result(folder, window):
            return earlier
        result = load_result(folder)
        if result is None:
            identity = RunIdentity(folder, f"daily/{date}", DAILY, DAILY)
            train.run(dated, identity, progress, resume=_has_checkpoint(folder))
        champions = champion_file(config)
        compare_with_champion(dated, encoded, folder, date, champions, progress)
        decision = promote(dated, folder, date, champions)
    return DailyResult(state, reason, folder, decision)


def _dated(config: RunConfig, window: Window) -> RunConfig:
    data = config.data
    if reason := _why_undated(config):
        raise UsageError(
            f"A scheduled run moves the splits' dates, and `{data.name}` (source `{data.source}`) has none to move: "
            f"{reason}, or train on each day's rows with `recsys train`."
        )
    assert isinstance(data, TableData)
    data = dataclasses.replace(
        data,
        train_start=window.train.first.isoformat(),
        validation_start=window.validation.first.isoformat(),
        test_start=window.test.first.isoformat(),
        test_end=window.test.end.isoformat(),
    )
    return dataclasses.replace(config, data=data)


def _why_undated(config: RunConfig) -> str:
    """Why the data's splits have no dates, and what to use instead; empty where they have some."""
    data = config.data
    if not isinstance(data, TableData):
        return "a simulated world is split by its own days. Use rows of your own, with data=table"
    layout = prepare.table_layout(data)
    if layout.time is None:
        return f"the `table:` block of {data.schema_path} declares no `time`. Declare it if the rows have one"
    if prepare.is_split_by_time(layout):
        return ""
    how = "by files" if layout.splits is None else "by a column" if layout.splits.column else "in another way"
    return (
        f"the `table:` block of {data.schema_path} splits the rows {how}. Declare `splits: {{validation_start: ..., "
        "test_start: ...}}` there"
    )


def _folder(root: Path, date: datetime.date, config: RunConfig, encoded: EncodedDataset) -> Path:
    """Where the day's work is kept: under a key of all that its model and its decision follow from."""
    rows = rows_of(encoded, (TRAIN, VALIDATION, TEST, RANKING_TEST))
    tower, code = pretrain.stage_of(config, encoded).key, code_of(train.fit_and_measure, compare_with_champion, decide)
    key = fingerprint_of([settings_of(config, _NO_EFFECT_ON_DAY), rows, tower, code])
    return root / f"{date}-{key[:8]}"


def _earlier_result(folder: Path, window: Window) -> DailyResult | None:
    """The decision that was taken in `folder`; None where there is none yet."""
    decision = load_decision(folder)
    if decision is None:
        return None
    state, reason = readiness(window, window.whole, is_done=True)
    return DailyResult(state, reason, folder, decision)


def _first_and_newest(config: RunConfig, progress: Progress) -> tuple[datetime.datetime, datetime.datetime]:
    assert isinstance(config.data, TableData)
    raw, layout = prepare.raw_folder(config, progress), prepare.table_layout(config.data)
    with (
        tempfile.TemporaryDirectory() as folder,
        temporary_database(Path(folder), config.runtime.memory_limit, config.runtime.cores) as connection,
    ):
        return event_times(connection, raw, layout, progress)


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("step-*"))
