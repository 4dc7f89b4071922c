"""One date's scheduled run: window, prepare, check, pre-train, train, evaluate, promote; safe to start twice.

Each stage is known by a key of all that its result follows from, is done once, and goes on where it was killed. What
stands for a stage is its file: the prepared rows and the tower carry receipts, a trained ranker is `result.json`, then
`comparison.json` and `decision.json` follow. So the same command does the next thing that is to be done.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError, UsageError
from recsys.features.schema import load_schema
from recsys.files import clear_leftovers, ensure_writable, fingerprint_of
from recsys.locks import held_lock
from recsys.nightly.champion_comparison import compare_with_champion
from recsys.nightly.check import CheckReport, run_checks
from recsys.nightly.dated import dated, window_of
from recsys.nightly.hooks import call_hook
from recsys.nightly.nightly_log import STAGES, DailyStage, DayOutcome, NightlyEvent, NightlyLog, Tell
from recsys.nightly.places import DayFolder, NightlyRoot
from recsys.nightly.promote import load_decision, mirror_champions, promote
from recsys.nightly.stale import stale_dates
from recsys.nightly.trail import notes_of, record_on_run, record_stop
from recsys.progress import Progress
from recsys.run import prepare, prepare_daily, pretrain, train
from recsys.run.folder import DAILY, RunIdentity
from recsys.run.record import open_store
from recsys.run.result_keys import code_of, rows_of, settings_of
from recsys.run.serving import MODEL
from recsys.run.streams import RANKING_TEST, TEST, TRAIN, VALIDATION
from recsys.run.warm_start import WarmStart
from recsys.scheduling.champion_file import Champion
from recsys.scheduling.promotion import Decision
from recsys.scheduling.window import Readiness, complete_days, readiness
from recsys.towers.artifact import TowerArtifact
from recsys.tracking.delivery import settle

# The rows say which days were learnt from and measured on, and the start or the tower's own key where it began. How a
# model is compared with the champion changes nothing of what it learnt.
_NO_EFFECT_ON_DAY = ("data", "tower", "daily", "ablation")


@dataclass(frozen=True)
class DailyResult:
    """What a scheduled run did: whether it ran, in one sentence, and its decision if it took one.

    Attributes:
        folder: of its work; None where the data have not arrived.
        verdict_changes: what the week's study says otherwise than the one before, a sentence each.
    """

    date: datetime.date
    readiness: Readiness
    reason: str
    folder: DayFolder | None
    decision: Decision | None
    verdict_changes: tuple[str, ...] = ()


def run(
    config: RunConfig,
    date: datetime.date,
    progress: Progress,
    *,
    until: DailyStage = DailyStage.PROMOTE,
    tell: Tell = lambda _: None,
) -> DailyResult:
    """Do a date's stages up to `until`, as far as they are not done: train, and promote what is better or as good.

    Args:
        tell: called with every decision, as it is logged.

    Raises:
        UsageError: the source's splits cannot be moved to a date.
        BusyError: another scheduled run for the same data is under way.
        DataError: the data begin after the window does, or a check of the newest day failed.
    """
    root = NightlyRoot.of(config)
    window_of(config, date)  # what cannot be scheduled is refused before anything is written
    ensure_writable(root.path)
    with held_lock(root.lock, f"The scheduled run of {config.data.name}"):
        day = _Day(config, date, root, NightlyLog(root.log, tell), progress)
        try:
            return day.run(until)
        except Exception as error:
            day.failed(error)
            raise


class _Day:
    """A date's run while it lasts."""

    def __init__(
        self, config: RunConfig, date: datetime.date, root: NightlyRoot, log: NightlyLog, progress: Progress
    ) -> None:
        self._config, self._date, self._root, self._log, self._progress = config, date, root, log, progress
        self._stage: DailyStage = DailyStage.PREPARE
        self._folder: DayFolder | None = None

    def run(self, until: DailyStage) -> DailyResult:
        """Do the stages up to `until` that are not done."""
        config, date = self._config, self._date
        settle(open_store(config))
        mirror_champions(config, self._root.champions)
        days = prepare_daily.day_fingerprints(config, self._progress)
        self._tell_stale(days)
        # The champion before the date, so that a date that is done again starts where it did the first time.
        champion = self._root.champions.before(date)
        start = self._start(champion)
        window = window_of(config, date, is_warm=start is not None, first=min(days, default=None))
        # The newest day that has rows may still grow: only a later one shows that it is over.
        state, reason = readiness(
            window, complete_days(days, datetime.datetime.now(datetime.UTC).date()), is_done=False
        )
        if state is not Readiness.GO:
            self._say(DayOutcome.WAITING, reason)
            return DailyResult(date, state, reason, None, None)
        self._say(DayOutcome.STARTED, reason)
        work = dated(config, window) if start is None else start.settled(dated(config, window))
        encoded = prepare_daily.run(work, self._progress, start.known_fit if start else None)
        folder = self._folder = self._root.work(date, _key(work, encoded, start))
        # Under the lock nobody else writes here: what a killed run had under way belongs to nobody.
        clear_leftovers(self._root.path, folder.path)
        if (decision := load_decision(folder.path)) is not None:
            reason = f"The run over {window.whole} is done; nothing to do."
            self._say(DayOutcome.UP_TO_DATE, reason, DailyStage.PROMOTE)
            return DailyResult(date, Readiness.ALREADY_DONE, reason, folder, decision)
        before = {day: found for day, found in days.items() if day < date}
        folder.write_inputs(window, champion.artifact if start and champion else "", before)
        decision = self._learn_and_decide(_Work(work, encoded, folder, start, champion), until)
        return DailyResult(date, state, reason, folder, decision)

    def failed(self, error: Exception) -> None:
        """Log what ended the run, and tell whoever wants to know."""
        outcome = DayOutcome.STOPPED if isinstance(error, DataError) else DayOutcome.FAILED
        event = self._say(outcome, str(error) or type(error).__name__)
        call_hook(self._config.daily.hooks.failure, event)

    def _learn_and_decide(self, work: "_Work", until: DailyStage) -> Decision | None:
        wanted = STAGES[: STAGES.index(until) + 1]
        if DailyStage.CHECK not in wanted:
            return None
        report = self._check(work)
        if DailyStage.PRETRAIN in wanted and not work.folder.is_trained:
            artifact = self._tower(work)
            if DailyStage.TRAIN in wanted:
                self._train(work, artifact)
        if DailyStage.EVALUATE in wanted:
            self._evaluate(work, report)
        return self._promote(work) if DailyStage.PROMOTE in wanted else None

    def _check(self, work: "_Work") -> CheckReport:
        self._stage = DailyStage.CHECK
        report = run_checks(work.config, work.encoded, self._date, work.folder.path, self._progress)
        for sentence in report.warnings:
            self._say(DayOutcome.WARNING, sentence)
        try:
            report.require_passed()
        except DataError as error:
            record_stop(work.config, self._identity(work), error, report.tags())
            raise
        return report

    def _tower(self, work: "_Work") -> TowerArtifact:
        self._stage = DailyStage.PRETRAIN
        self._say(DayOutcome.STARTED, "Taking the champion's tower." if work.start else "Making the tower.")
        return pretrain.run(work.config, work.encoded, self._progress, start=work.start)

    def _train(self, work: "_Work", artifact: TowerArtifact) -> None:
        self._stage = DailyStage.TRAIN
        resume = work.folder.has_checkpoint
        self._say(DayOutcome.STARTED, "Going on with training." if resume else f"Training from {_began(work)}.")
        result = train.fit_and_measure(
            work.config,
            self._identity(work),
            open_store(work.config),
            work.encoded,
            artifact,
            self._progress,
            resume=resume,
            start=work.start,
        )
        self._say(DayOutcome.DONE, f"Trained {result.record.steps} steps, the best is {result.best_step}.")

    def _evaluate(self, work: "_Work", report: CheckReport) -> None:
        self._stage = DailyStage.EVALUATE
        record_on_run(work.config, work.folder, report.tags(), report.metrics())
        found = compare_with_champion(
            work.config, work.encoded, work.folder.path, self._date, self._root.champions, self._progress
        )
        if found.decay and found.decay.slope is not None:
            self._say(DayOutcome.DONE, found.decay.sentence)

    def _promote(self, work: "_Work") -> Decision:
        self._stage = DailyStage.PROMOTE
        decision = promote(work.config, work.folder.path, self._root.champions)
        event = self._say(DayOutcome.PROMOTED if decision.promote else DayOutcome.REFUSED, " ".join(decision.reasons))
        if decision.promote:
            call_hook(work.config.daily.hooks.promotion, event)
        return decision

    def _identity(self, work: "_Work") -> RunIdentity:
        return RunIdentity(work.folder.path, f"daily/{self._date}", DAILY, DAILY, notes=notes_of(work.folder))

    def _start(self, champion: Champion | None) -> WarmStart | None:
        if champion is None or self._config.daily.start == "scratch":
            return None
        start = WarmStart(self._root.champions.folder(champion) / MODEL)
        try:
            start.require_fit(self._config, load_schema(prepare.schema_file(self._config.data)))
        except UsageError as error:
            # Somebody changed what the ranker is: a night must not wait for a person to say that this means scratch.
            self._say(DayOutcome.WARNING, f"The run begins from scratch. {error}")
            return None
        return start

    def _tell_stale(self, days: Mapping[datetime.date, str]) -> None:
        # Each once, however many nights pass until somebody does it again.
        told = {event.date: event.message for event in self._log.events() if event.outcome is DayOutcome.STALE}
        for date, why in stale_dates(self._root, days).items():
            message = f"The run of {date} is stale: {why}. `recsys daily --date {date}` does it again."
            if date != self._date and told.get(date.isoformat()) != message:
                self._log.add(date, DailyStage.PREPARE, DayOutcome.STALE, message)

    def _say(self, outcome: DayOutcome, message: str, stage: DailyStage | None = None) -> NightlyEvent:
        folder = self._folder.path if self._folder else None
        return self._log.add(self._date, stage or self._stage, outcome, message, folder)


@dataclass(frozen=True)
class _Work:
    """What a date's stages share.

    Attributes:
        config: with the window's days, and the rates of a warm start.
        champion: whom the result is compared with; None where there is none.
    """

    config: RunConfig
    encoded: EncodedDataset
    folder: DayFolder
    start: WarmStart | None
    champion: Champion | None


def _key(config: RunConfig, encoded: EncodedDataset, start: WarmStart | None) -> str:
    """Of all that the day's model follows from."""
    rows = rows_of(encoded, (TRAIN, VALIDATION, TEST, RANKING_TEST))
    origin = start.digest if start else pretrain.stage_of(config, encoded).key
    return fingerprint_of([settings_of(config, _NO_EFFECT_ON_DAY), rows, origin, code_of(train.fit_and_measure)])


def _began(work: _Work) -> str:
    return f"the champion of {work.champion.date}" if work.start and work.champion else "scratch"
