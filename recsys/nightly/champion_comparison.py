"""The challenger beside the champion on the challenger's test rows: the newest there are, which neither learnt from."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.ablation.bootstrap import UserBootstrap, measure_arm
from recsys.ablation.comparison import compare_fixed
from recsys.all_segments import ALL
from recsys.artifacts.export import load_scorer
from recsys.config import RunConfig
from recsys.datasets.decode import raw_rows
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError
from recsys.evaluation.stored_predictions import load_predictions
from recsys.files import write_text_atomically
from recsys.metrics.auc import AUC, auc
from recsys.metrics.calibration import expected_calibration_error, reliability_bins
from recsys.metrics.predictions import Predictions
from recsys.nightly.champion_decay import ChampionDecay, decay_from, decay_of
from recsys.nightly.golden_rows import GoldenCheck, check_in_fresh_process, keep_golden_rows
from recsys.progress import Progress
from recsys.run.drift_report import load_drift
from recsys.run.folder import PREDICTIONS, read_record
from recsys.run.serving import MODEL
from recsys.run.streams import TEST
from recsys.scheduling.champion_file import REFUSED, Champion, ChampionFile
from recsys.scheduling.promotion import UNMEASURED, AucDifference, PromotionEvidence

COMPARISON = "comparison.json"
CHALLENGER, CHAMPION = "challenger", "champion"
_LEVEL = 0.05


@dataclass(frozen=True)
class ChampionComparison:
    """What `comparison.json` holds; the same for the same models and rows, whenever it is written.

    Attributes:
        date: the challenger's.
        champion, champion_date: the artifact that it was compared with, and its date; None where there was none.
        gives_way: the champion of `date` itself, made of rows that have changed since; None where there was none.
        rows: test rows.
        auc: `CHALLENGER` and `CHAMPION` -> over all rows; absent where undefined.
        calibration_error: the same, see `metrics.calibration.expected_calibration_error`.
        differences: "all" and every segment -> AUC, challenger minus champion; empty where there was no champion.
        decay: of the champion; None where there are no differences.
        drift_fault: of the challenger's tower, see `training_mode.max_drift`; empty where it is within its limit.
    """

    date: datetime.date
    champion: str | None
    champion_date: datetime.date | None
    gives_way: str | None
    rows: int
    auc: Mapping[str, float]
    calibration_error: Mapping[str, float]
    differences: Mapping[str, AucDifference]
    golden: GoldenCheck
    decay: ChampionDecay | None
    drift_fault: str = ""  # which comparisons of earlier versions do not tell

    @property
    def evidence(self) -> PromotionEvidence:
        """What the rule of promotion asks for."""
        return PromotionEvidence(
            has_champion=self.champion is not None,
            overall=self.differences.get(ALL, UNMEASURED),
            by_segment={segment: each for segment, each in self.differences.items() if segment != ALL},
            calibration_error=self.calibration_error.get(CHALLENGER),
            drift_fault=self.drift_fault,
            golden_fault=self.golden.fault,
        )

    def to_json(self) -> str:
        """Return the text that `load_comparison` reads back."""
        differences = {name: asdict(each) if each.is_measured else None for name, each in self.differences.items()}
        decay = self.decay.to_document() if self.decay else None
        document = {**asdict(self), "differences": differences, "decay": decay}
        return json.dumps(document, indent=2, default=str) + "\n"


def load_comparison(folder: Path) -> ChampionComparison:
    """Return the comparison that was made of the run in `folder`.

    Raises:
        DataError: there is none, or its file is damaged or of another version.
    """
    return read_record(folder / COMPARISON, _comparison_of)


def compare_with_champion(
    config: RunConfig,
    encoded: EncodedDataset,
    folder: Path,
    date: datetime.date,
    champions: ChampionFile,
    progress: Progress,
) -> ChampionComparison:
    """Compare the finished run in `folder` with the champion, and write that down; done already, nothing happens.

    A comparison with a model that is the champion no more is made again with the one that is.

    Raises:
        DataError: the champion's model or the run's predictions cannot be read.
        BusyError: see `check_in_fresh_process`.
    """
    champion, same_date = champions.before(date), champions.of(date)
    gives_way = same_date.artifact if same_date and same_date.artifact != folder.name else None
    if (folder / COMPARISON).is_file():
        earlier = load_comparison(folder)
        if (earlier.champion, earlier.gives_way) == (champion.artifact if champion else None, gives_way):
            return earlier
    # The last digits follow from it, and training, which sets it too, may have been done by another process.
    torch.set_num_threads(config.runtime.cores)
    keep_golden_rows(config, encoded, folder)
    mine = load_predictions(folder / PREDICTIONS)
    both, differences, decay = {CHALLENGER: mine}, dict[str, AucDifference](), None
    if champion:
        both[CHAMPION] = replace(mine, logit=_champion_logits(champions, champion, encoded, progress))
        differences = _differences(both, encoded.contract.schema.segments, config.ablation.resamples)
        decay = decay_of(champion.date, _auc_by_day(both[CHAMPION], encoded, champion, champions, date))
    progress("scoring the golden rows in a fresh process", 0, 0)
    found = ChampionComparison(
        date,
        champion.artifact if champion else None,
        champion.date if champion else None,
        gives_way,
        rows=len(mine),
        auc=_measured(both, lambda rows: auc(rows.label, rows.logit, rows.weight)),
        calibration_error=_measured(both, _calibration_error),
        differences=differences,
        golden=check_in_fresh_process(config, folder),
        decay=decay,
        drift_fault=drift["fault"] if (drift := load_drift(folder)) else "",
    )
    write_text_atomically(folder / COMPARISON, found.to_json())
    return found


def _comparison_of(text: str) -> ChampionComparison:
    document = json.loads(text)
    dates = {name: document[name] and datetime.date.fromisoformat(document[name]) for name in ("date", "champion_date")}
    differences = {
        name: AucDifference(**each) if each else UNMEASURED for name, each in document["differences"].items()
    }
    decay = document["decay"] and decay_from(document["decay"])
    golden = GoldenCheck(**document["golden"])
    return ChampionComparison(**document | dates | {"differences": differences, "decay": decay, "golden": golden})


def _measured(both: Mapping[str, Predictions], metric: Any) -> dict[str, float]:
    return {name: value for name, rows in both.items() if (value := metric(rows)) is not None}


def _calibration_error(rows: Predictions) -> float | None:
    return expected_calibration_error(reliability_bins(rows.label, rows.logit, rows.weight))


def _differences(both: Mapping[str, Predictions], segments: tuple[str, ...], samples: int) -> dict[str, AucDifference]:
    """Paired, by a bootstrap of the users; every segment is there, measured or not."""
    bootstrap = UserBootstrap(both[CHALLENGER], {}, samples, seed=0)
    measured = partial(measure_arm, seed=0, queries={}, segments=segments, bootstrap=bootstrap)
    first, second = (measured(name, predictions=both[name]) for name in (CHALLENGER, CHAMPION))
    found = compare_fixed(first, second, AUC.name, _LEVEL)
    return {
        name: AucDifference(found[name].value, found[name].low, found[name].high) if name in found else UNMEASURED
        for name in (ALL, *segments)
    }


def _auc_by_day(
    rows: Predictions, encoded: EncodedDataset, champion: Champion, champions: ChampionFile, date: datetime.date
) -> dict[str, float]:
    """The champion's AUC on each day since its own date: of these rows, and of the runs that it was kept against."""
    found: dict[str, float] = {}
    for event in champions.events():
        path = champions.path.parent / event.artifact / COMPARISON
        if (event.what, event.champion) == (REFUSED, champion.artifact) and event.date < date and path.is_file():
            earlier = load_comparison(path.parent)
            found |= earlier.decay.auc_by_day if earlier.decay and earlier.champion == champion.artifact else {}
    first = 0
    for day, count in encoded.days(TEST).items():
        part = slice(first, first + count)
        value = auc(rows.label[part], rows.logit[part], rows.weight[part])
        if day >= champion.date.isoformat() and value is not None:
            found[day] = value
        first += count
    return found


def _champion_logits(
    champions: ChampionFile, champion: Champion, encoded: EncodedDataset, progress: Progress
) -> NDArray[np.float64]:
    try:
        # What was prepared is read back under the schema's names and not the files', its past counted already.
        scorer = replace(load_scorer(champions.folder(champion) / MODEL), reader=None)
    except DataError as error:
        raise DataError(
            f"The champion of {champion.date} cannot be compared with: {error} Or go back to the champion before it "
            "with `recsys rollback`."
        ) from error
    rows = encoded.rows(TEST)
    scores: list[NDArray[np.float64]] = []
    done = 0
    for part in raw_rows(encoded, TEST):
        scores.append(_logit(scorer.score(part)))
        done += part.num_rows
        progress("scoring the champion", done, rows)
    return np.concatenate(scores)


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logit, finite also where a probability was rounded to 0 or 1."""
    kept = np.clip(probability, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    return np.log(kept) - np.log1p(-kept)
