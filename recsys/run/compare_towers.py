"""May a model that was trained on one tower take another one without being trained again?

The vectors of the new tower are brought to those of the old by a linear map, and the run scores the same rows with
them. Its loss is judged as that of a challenger, by a paired interval over users; the models stand as they are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.ablation.comparison import FixedDifference, compare_fixed
from recsys.all_segments import ALL
from recsys.artifacts.export import load_scorer
from recsys.composition.ranker import Ranker
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError, UsageError
from recsys.evaluation.split_evaluation import evaluate, evaluation_mode, predict
from recsys.features.batch import Batch
from recsys.features.contract import contract_tags, require_same_contract
from recsys.metrics.auc import AUC
from recsys.metrics.predictions import Predictions
from recsys.progress import Progress
from recsys.run import prepare
from recsys.run.evaluate import require_split
from recsys.run.last_rows import last_rows
from recsys.run.serving import MODEL
from recsys.run.session import TEST_EXTRAS
from recsys.run.shared_towers import SharedTower, open_shared, require_readable
from recsys.run.streams import scoring_memory, scoring_stream, started
from recsys.sharding.processes import ProcessContext
from recsys.towers.any_tower import build_tower
from recsys.towers.artifact import apply_tower
from recsys.towers.linear_map import LinearMap, fit_maps
from recsys.towers.tower_spec import TowerKind
from recsys.towers.translated import Bools, translated
from recsys.towers.two_sided import TwoSidedTower
from recsys.towers.version import TowerVersion

_MOST_IDS, _SEED, _LEVEL = 20_000, 0, 0.05


class MayTake(StrEnum):
    """What the interval of a difference lets one say of the run with the new tower."""

    YES = "may take it"
    NO = "may not"
    OPEN = "not enough evidence"


@dataclass(frozen=True)
class MappedScores:
    """The run with the new tower's vectors through one map.

    Attributes:
        scores: "<metric>/<segment>" -> value.
        differences: "all" and every segment where it is defined -> AUC with the new tower minus AUC with the old one.
    """

    fit: LinearMap
    scores: dict[str, float]
    differences: dict[str, FixedDifference]
    verdict: MayTake


@dataclass(frozen=True)
class TowerComparison:
    """What was found of a run, the tower that it was trained on, and a new one.

    Attributes:
        own: the run's scores as it is, "<metric>/<segment>".
        margin: of AUC, within which a loss is of no account; in all rows and in each segment.
        missing: table -> its ids that the new tower does not know, and the share of the split's rows that have one.
        maps: in the order of how well they do on held-out ids; the first one decides.
    """

    old: TowerVersion
    new: TowerVersion
    split: str
    own: dict[str, float]
    margin: float
    missing: dict[str, tuple[int, float]]
    maps: tuple[MappedScores, ...]

    @property
    def chosen(self) -> MappedScores:
        """The map that decides: it was chosen on ids, not on the rows that judge it."""
        return self.maps[0]

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        found, overall = self.chosen, self.chosen.differences[ALL]
        by = {"none": "as it is"}.get(found.fit.method, f"through the map that {found.fit.method} fits")
        worse = [name for name, each in found.differences.items() if name != ALL and each.high < -self.margin]
        where = f" It is worse by more than the margin in {', '.join(worse)}." if worse else ""
        say = {
            MayTake.YES: f"The run may take the new tower {by} without being trained again",
            MayTake.NO: f"The run may not take the new tower {by}: train it again",
            MayTake.OPEN: f"There is not enough evidence that the run may take the new tower {by}",
        }[found.verdict]
        return (
            f"{say}. AUC with it minus AUC with the old one is {overall.value:+.4f} (95 % interval {overall.low:+.4f} "
            f"to {overall.high:+.4f}; the margin is {self.margin:g}).{where}"
        )

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdict": str(self.chosen.verdict),
            "sentence": self.sentence,
            "old": self.old.to_document(),
            "new": self.new.to_document(),
            "is_parent": self.new.parent == self.old.version,
            "split": self.split,
            "margin": self.margin,
            "missing": {t: {"ids": ids, "rows_share": share} for t, (ids, share) in self.missing.items()},
            "own": self.own,
            "maps": [
                {key: value for key, value in vars(each.fit).items() if key != "matrix"}
                | {"verdict": str(each.verdict), "scores": each.scores}
                | {"differences": {name: vars(one) for name, one in each.differences.items()}}
                for each in self.maps
            ],
        }


def run(config: RunConfig, old: Path, new: Path, folder: Path, split: str, progress: Progress) -> TowerComparison:
    """Score the run in `folder` on a split with the vectors of the new tower in place of the old one's.

    Args:
        old, new: folders of towers, or of finished runs whose models hold them.

    Raises:
        UsageError: a tower gives no vectors that could be mapped, the run stands on another tower than the old one, or
            there is no such split.
        DataError: something is missing or damaged, or the new tower was made from data of another schema or scaling.
    """
    old_tower, new_tower = open_shared(old), open_shared(new)
    encoded = prepare.run(config, progress)
    require_split(split, encoded)
    scorer = load_scorer(folder / MODEL)
    require_same_contract(encoded.contract, contract_tags(scorer.contract), f"The ranker of {folder}")
    _require_own(old_tower, open_shared(folder))
    require_readable(new_tower, encoded.contract)
    context = started(config)
    ranker, (live, known) = scorer.ranker, _under(new_tower, encoded)
    assert isinstance(ranker, Ranker)
    ranker.to(context.device)
    live.to(context.device)
    own_tower = ranker.embedding_tower
    assert isinstance(own_tower, TwoSidedTower)
    if bool(own_tower.spec.user_features) != bool(live.spec.user_features):
        raise UsageError(
            f"One of the towers has a side for users and the other has none: {old} reads "
            f"{own_tower.spec.user_features} and {new} {live.spec.user_features} of users. Compare towers of one kind."
        )
    progress("fitting the maps", 0, 0)
    maps = _fitted(config, encoded, context, own_tower, live, known)

    def scored() -> Predictions:
        return predict(ranker, scoring_stream(config, encoded, split, context, TEST_EXTRAS), progress)

    segments = encoded.contract.schema.segments
    with scoring_memory(config, context):
        before = scored()
        bootstrap = UserBootstrap(before, {}, config.ablation.resamples, seed=_SEED)
        measured = partial(measure_arm, seed=_SEED, queries={}, segments=segments, bootstrap=bootstrap)
        judge = partial(_judged, measured=measured, own=measured("old", predictions=before))
        found = []
        for each in maps:
            with _reading(own_tower, live, each.matrix):
                found.append(judge(each, scored(), segments, config.ablation.margin))
    return TowerComparison(
        old=old_tower.version,
        new=new_tower.version,
        split=split,
        own=evaluate(before, segments).flat_metrics(""),
        margin=config.ablation.margin,
        missing=_missing(config, encoded, context, split, known),
        maps=tuple(found),
    )


def verdict_of(differences: Mapping[str, FixedDifference], margin: float) -> MayTake:
    """Say whether a run is not inferior: over all rows by the whole interval, and in no segment surely worse.

    A loss within the margin is of no account, as in the verdicts of studies; gains are not asked for.

    Raises:
        DataError: the difference over all rows could not be measured.
    """
    overall = differences.get(ALL)
    if overall is None:
        raise DataError(
            "The difference in AUC over all rows could not be measured: the split has one class, or too few users for "
            "an interval. Compare on another split (`--split`)."
        )
    if any(each.high < -margin for each in differences.values()):
        return MayTake.NO
    return MayTake.YES if overall.low > -margin else MayTake.OPEN


def _judged(
    fit: LinearMap,
    predictions: Predictions,
    segments: tuple[str, ...],
    margin: float,
    *,
    measured: Callable[..., MeasuredArm],
    own: MeasuredArm,
) -> MappedScores:
    differences = compare_fixed(measured(fit.method, predictions=predictions), own, AUC.name, _LEVEL)
    scores = evaluate(predictions, segments).flat_metrics("")
    return MappedScores(fit, scores, differences, verdict_of(differences, margin))


def _require_own(old: SharedTower, own: SharedTower) -> None:
    """Refuse a run that stands on another tower than the old one."""
    if own.version.digest != old.version.digest:
        parent = " made from it by training" if own.version.parent == old.version.version else ""
        raise UsageError(
            f"The run in {own.path} stands on tower {own.version.version}{parent}, and {old.path} is tower "
            f"{old.version.version}: a map to that one would not fit the run. Name the run's own tower as the old one, "
            f"which {own.path} does."
        )


def _under(new: SharedTower, encoded: EncodedDataset) -> tuple[TwoSidedTower, dict[str, Bools]]:
    """The new tower over the rows of `encoded`, and which ids of its tables it knows."""
    stored, contract = new.stored, encoded.contract
    wanted = {table: encoded.vocabulary(table) for table in contract.table_rows}
    artifact, known = translated(stored.artifact, stored.vocabularies, wanted)
    tower = build_tower(artifact.spec, contract)
    apply_tower(tower, artifact)
    assert isinstance(tower, TwoSidedTower)
    tower.eval()
    return tower, known


def _fitted(
    config: RunConfig,
    encoded: EncodedDataset,
    context: ProcessContext,
    own: TwoSidedTower,
    new: TwoSidedTower,
    known: Mapping[str, Bools],
) -> list[LinearMap]:
    """The maps from the new tower's vectors to the run's own, the best on held-out ids first."""
    schema = encoded.contract.schema
    pairs = list[tuple[Tensor, Tensor]]()
    # A user of imported vectors is a mean of items, so a held-out one would be known by its items.
    has_users = bool(new.spec.user_features) and new.spec.kind is not TowerKind.IMPORTED
    sides = {schema.item: -1} | ({schema.user: 0} if has_users else {})
    for name, side in sides.items():
        if name not in {feature.name for feature in schema.sparse}:
            continue
        rows, table = last_rows(config, encoded, context, name, _MOST_IDS, _SEED), schema.feature(name).table
        vectors = [torch.cat(list(_side_of(tower, rows.batches, side, context))) for tower in (new, own)]
        shared = torch.from_numpy(known[table][rows.ids] if table in known else np.ones(len(rows.ids), np.bool_))
        pairs.append((vectors[0][shared], vectors[1][shared]))
    maps = fit_maps(torch.cat([mine for mine, _ in pairs]), torch.cat([theirs for _, theirs in pairs]), _SEED)
    return sorted(maps, key=lambda each: -each.r2)


def _side_of(tower: TwoSidedTower, batches: tuple[Batch, ...], side: int, context: ProcessContext) -> Iterator[Tensor]:
    with evaluation_mode(tower):
        for batch in batches:
            yield tower.side_vectors(batch.to(context.device))[side].float().cpu()


@contextmanager
def _reading(own: TwoSidedTower, new: TwoSidedTower, matrix: Tensor) -> Iterator[None]:
    """Within it the run's own tower takes the new one's vectors through the map in place of its own."""
    mapping = matrix.to(next(new.parameters()).device)
    before = own.is_frozen, own.cache
    # A tower with a cache is one that does not learn; here nothing does.
    own.is_frozen = True
    own.cache = lambda batch: [(side.double() @ mapping).float() for side in new.side_vectors(batch)]
    try:
        yield
    finally:
        own.is_frozen, own.cache = before


def _missing(
    config: RunConfig, encoded: EncodedDataset, context: ProcessContext, split: str, known: Mapping[str, Bools]
) -> dict[str, tuple[int, float]]:
    """By table, how many ids the new tower does not know, and the share of rows whose own id is one of them."""
    schema = encoded.contract.schema
    singles = {
        name: schema.feature(name).table
        for name in (schema.item, schema.user)
        if name in {feature.name for feature in schema.sparse}
    }
    rows, hit = 0, dict.fromkeys(singles, 0)
    for batch in scoring_stream(config, encoded, split, context):
        rows += len(batch)
        for name, table in singles.items():
            if table in known:
                ids = batch.sparse[name].values().cpu().numpy()
                hit[name] += int((~known[table][ids] & (ids > 0)).sum())
    tables = {table: name for name, table in singles.items()}
    return {
        table: (int((~is_known[1:]).sum()), hit[tables[table]] / max(rows, 1) if table in tables else 0.0)
        for table, is_known in known.items()
    }
