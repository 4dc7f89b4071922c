"""What becomes of a challenger once it has been compared: the champion's place or not, written down where it counts.

The order, in which each step may be repeated and mends what a kill before it left undone:

1. The champion file: one atomic write under its lock. It alone says who the champion is, and with it the decision and
   its reasons are kept for good. It is refused where another model became the champion since the comparison.
2. The run's own record: metrics, tags and the comparison, through the spool, so that no tracking server is needed.
3. `decision.json` in the run's folder, a copy for readers and the mark that the day is done: so it comes after 1 and 2.
4. The model registry, which mirrors the champion file. It comes last because it may be away: nothing waits for it, and
   every later start brings it up to date.
"""

import json
import logging
from pathlib import Path

from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.errors import DataError
from recsys.files import write_text_atomically
from recsys.nightly.champion_comparison import CHALLENGER, CHAMPION, COMPARISON, ChampionComparison, load_comparison
from recsys.nightly.places import NightlyRoot
from recsys.run.folder import load_result, read_record
from recsys.run.record import open_store
from recsys.scheduling.champion_file import PROMOTED, REFUSED, ROLLED_BACK, Champion, ChampionFile
from recsys.scheduling.promotion import Decision, PromotionLimits, decide
from recsys.tracking import names
from recsys.tracking.model_registry import NightlyModel, reconcile
from recsys.tracking.run import start_run

DECISION = "decision.json"
logger = logging.getLogger("recsys.nightly")


def load_decision(folder: Path) -> Decision | None:
    """Return the decision that was taken of the run in `folder`; None where none was.

    Raises:
        DataError: the file is damaged or of another version.
    """
    path = folder / DECISION
    return read_record(path, _decision_of) if path.is_file() else None


def promote(config: RunConfig, folder: Path, champions: ChampionFile) -> Decision:
    """Decide on the run in `folder`, which has been compared; safe to start again wherever it was killed.

    Raises:
        BusyError: another model became the champion since the comparison, or another process writes right now.
        DataError: there is no comparison, or a file is damaged.
    """
    comparison = load_comparison(folder)
    rule = config.daily.promotion
    limits = PromotionLimits(rule.margin, rule.segment_margin, rule.max_calibration_error)
    found = decide(comparison.evidence, limits)
    decision = champions.settle(folder, comparison.date, comparison.champion, found, comparison.gives_way)
    if not (folder / DECISION).is_file():
        _record(config, folder, comparison, decision)
        document = {
            "date": str(comparison.date),
            "promote": decision.promote,
            "reasons": decision.reasons,
            "champion": comparison.champion,
        }
        write_text_atomically(folder / DECISION, json.dumps(document, indent=2) + "\n")
    mirror_champions(config, champions)
    return decision


def roll_back(config: RunConfig, reason: str) -> Champion:
    """Make the champion before this one the champion again, in the registry too, and return it.

    Raises:
        UsageError: there is none before it.
        BusyError: another process promotes or rolls back right now.
    """
    champions = NightlyRoot.of(config).champions
    champion = champions.roll_back(reason)
    mirror_champions(config, champions)
    return champion


def mirror_champions(config: RunConfig, champions: ChampionFile) -> bool:
    """Bring the model registry up to date with the champion file; return whether it is.

    A tracking store that is away is told in one notice, and changes nothing else.
    """
    models: dict[str, NightlyModel] = {}
    champion = challenger = None
    for event in champions.events():
        name, reason = event.artifact, " ".join(event.reasons)
        if event.what == ROLLED_BACK:
            assert event.champion is not None
            models[name] = models[name].but(rolled_back=reason)
            models[event.champion] = models[event.champion].but(replaced_by="")
        else:
            models[name] = NightlyModel(name, str(event.date), event.what, reason)
            challenger = name if event.what == REFUSED else None
        # Where a date is done again, a later one's model stays the champion.
        if event.what == PROMOTED and champion not in (None, event.champion):
            models[champion] = models[champion].but(replaced_by=name)
        champion = event.champion
    root = champions.path.parent
    return reconcile(
        open_store(config), config.data.name, [*models.values()], champion, challenger, lambda name: _spool(root / name)
    )


def _spool(folder: Path) -> str:
    try:
        result = load_result(folder)
    except DataError as error:
        logger.warning("the model in %s cannot be registered (%s)", folder, error)
        return ""
    return result.spool_id if result else ""


def _record(config: RunConfig, folder: Path, comparison: ChampionComparison, decision: Decision) -> None:
    """Add the comparison and what came of it to the run's own record."""
    result = load_result(folder)
    assert result is not None  # it was compared by what it left
    tags = {
        names.TAG_DECISION: PROMOTED if decision.promote else REFUSED,
        names.TAG_REASON: " ".join(decision.reasons),
        names.TAG_CHAMPION: comparison.champion or names.NONE,
        names.TAG_CHAMPION_DECAY: comparison.decay.sentence if comparison.decay else "",
    }
    try:
        with start_run(open_store(config), result.name, {}, {}, resume=result.spool_id) as tracked:
            tracked.log_final(_metrics(comparison))
            tracked.set_tags({name: value for name, value in tags.items() if value})
            tracked.attach(COMPARISON, folder / COMPARISON)
    except DataError as error:
        # Spools are nobody's only copy of anything: a run that has lost its own is decided on all the same.
        logger.warning("what was decided of %s is not in its record (%s)", folder, error)


def _metrics(comparison: ChampionComparison) -> dict[str, float]:
    found = {names.champion("auc"): comparison.auc.get(CHAMPION)}
    found[names.champion("calibration_error")] = comparison.calibration_error.get(CHAMPION)
    found[names.champion("challenger_calibration_error")] = comparison.calibration_error.get(CHALLENGER)
    if (overall := comparison.differences.get(ALL)) and overall.is_measured:
        found |= {
            names.champion("difference"): overall.value,
            names.champion("difference_low"): overall.low,
            names.champion("difference_high"): overall.high,
        }
    if decay := comparison.decay:
        found |= {names.champion("slope"): decay.slope, names.champion("slope_error"): decay.error}
        found[names.champion("days")] = float(len(decay.auc_by_day))
    return {name: value for name, value in found.items() if value is not None}


def _decision_of(text: str) -> Decision:
    document = json.loads(text)
    return Decision(document["promote"], tuple(document["reasons"]))
