"""How far training has moved a run's item vectors: at every validation, and of the weights that the run keeps."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from recsys.composition.ranker import Ranker
from recsys.config import MaxDriftConfig, RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import TrainingError
from recsys.evaluation.split_evaluation import evaluation_mode
from recsys.run.last_rows import LastRows, last_rows, seen_days
from recsys.sharding.first_process import by_first
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext, gathered
from recsys.towers.drift import DriftSummary, Floats, Ints, NeighbourRule, VectorDrift, measure_drift, summarise
from recsys.towers.item_vectors import item_vectors
from recsys.tracking.drift_names import TAG_DRIFT
from recsys.tracking.drift_names import drift as drift_name
from recsys.tracking.run import TrackedRun
from recsys.training.loop import LoopState

RULE = NeighbourRule(count=10, queries=1000, pool=50_000, seed=0)
# Their last rows stay in memory, and a pass over them is taken at every validation.
_MOST_ITEMS = 50_000
logger = logging.getLogger("recsys.run")


@dataclass(frozen=True)
class WatchedItems:
    """The n items that are watched.

    Attributes:
        days: (n,) each, the first and the last training day; None where the rows do not tell.
    """

    last: LastRows
    days: tuple[Ints, Ints] | None

    @property
    def traffic(self) -> Floats:
        """(n,) training rows that each item stands for."""
        return self.last.rows.sum(axis=0) * self.last.stands_for


class DriftWatch:
    """Holds the item vectors of a tower that is to learn, and compares later ones with them.

    Every process makes one and calls it, since a look-up in sharded tables takes all of them.

    Args:
        wrapped: the ranker with the tower as the run begins with it.

    Raises:
        DataError: see `last_rows`.
    """

    def __init__(self, wrapped: nn.Module, config: RunConfig, encoded: EncodedDataset, context: ProcessContext) -> None:
        self._wrapped, self._device = wrapped, context.device
        self._item, self._limit = encoded.contract.schema.item, config.training_mode.max_drift
        self.items = _watched_items(config, encoded, context)
        self._before = self._vectors()
        self._has_warned = False

    def measure(self) -> dict[str, VectorDrift]:
        """Compare the present item vectors with the first ones, by the name of their space."""
        after, strata = self._vectors(), self.items.last.popularity
        return {
            space: measure_drift(zip(before, after[space], strict=True), strata, RULE)
            for space, before in self._before.items()
        }

    def figures(self) -> dict[str, float]:
        """Return what is tracked, and judged where there is a limit: of the space that turned most, by traffic."""
        return figures_of(self.measure(), self.items)

    def judge(self, figures: Mapping[str, float], step: int, tracked: TrackedRun) -> None:
        """Stop or warn where the figures, which are the same in every process, are beyond the limit.

        Raises:
            TrainingError: they are, and the limit stops.
        """
        if self._limit is None:
            return
        fault = beyond(self._limit, figures)
        tracked.set_tags({TAG_DRIFT: fault or "within the limit"})
        if fault and self._limit.action == "stop":
            raise TrainingError(
                f"After step {step} {fault} Models that share the tower would read other vectors. Lower "
                "`training_mode.rates.embedding_tower` or freeze the tower (training_mode=frozen_tower); or raise "
                "`training_mode.max_drift.limit`, or let it warn (`training_mode.max_drift.action=warn`)."
            )
        if fault and not self._has_warned:
            logger.warning("after step %d %s The run goes on (`training_mode.max_drift.action=warn`)", step, fault)
            self._has_warned = True

    def _vectors(self) -> dict[str, list[Tensor]]:
        """The vectors of each batch of items, (b, D) on the CPU, by space."""
        found: dict[str, list[Tensor]] = {}
        ranker = unwrapped(self._wrapped)
        assert isinstance(ranker, Ranker)
        with evaluation_mode(self._wrapped):
            for batch in self.items.last.batches:
                vectors = item_vectors(ranker.embedding_tower, batch.to(self._device), self._item)
                for space, each in vectors.items():
                    found.setdefault(space, []).append(each.float().cpu())
        return found


def watched(
    validate: Callable[[], Mapping[str, float]], watch: DriftWatch | None, state: LoopState, tracked: TrackedRun
) -> Callable[[], Mapping[str, float]]:
    """Return `validate` with the drift's figures beside its own, judged; `validate` itself where nothing is watched."""
    if watch is None:
        return validate

    def both() -> dict[str, float]:
        figures = validate()
        # The first process's: another machine may round differently, and all must judge alike.
        found: dict[str, float] = gathered(watch.figures())[0]
        watch.judge(found, state.step, tracked)
        return {**figures, **found}

    return both


def figures_of(drift: Mapping[str, VectorDrift], items: WatchedItems) -> dict[str, float]:
    """Name the figures over all items, each weighted by its rows, of the space whose vectors turned most."""
    summary = most_turned(drift, items)[1]
    values = {key: value for key, value in asdict(summary).items() if key != "vectors" and value is not None}
    return {drift_name(measure): value for measure, value in values.items()}


def most_turned(drift: Mapping[str, VectorDrift], items: WatchedItems) -> tuple[str, DriftSummary]:
    """Return the space whose vectors turned most, and its summary by traffic."""
    summaries = {space: summarise(each, items.traffic) for space, each in drift.items()}
    known = {space: each for space, each in summaries.items() if each is not None}
    space = max(known, key=lambda name: known[name].cosine_distance)
    return space, known[space]


def beyond(limit: MaxDriftConfig, figures: Mapping[str, float]) -> str:
    """Say in a sentence that drift is beyond its limit; empty where it is not."""
    found = figures.get(drift_name(limit.measure), 0.0)
    if found <= limit.limit:
        return ""
    return (
        f"the tower's item vectors are too far from those that the run began with: {limit.measure} is {found:.4f} on "
        f"average over the items' rows, above {limit.limit:g} (`training_mode.max_drift`)."
    )


def _watched_items(config: RunConfig, encoded: EncodedDataset, context: ProcessContext) -> WatchedItems:
    """Found by the first process, and sent to the others."""
    found = list[WatchedItems]()

    def find() -> None:
        last = last_rows(config, encoded, context, encoded.contract.schema.item, _MOST_ITEMS, RULE.seed)
        found.append(WatchedItems(last, seen_days(encoded, last)))

    by_first(find)
    items: WatchedItems = gathered(found[0] if found else None)[0]
    return items
