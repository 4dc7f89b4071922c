"""Measure a finished run on a split."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from recsys.artifacts.export import load_scorer
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import UsageError
from recsys.evaluation.ranking import evaluate_ranking
from recsys.evaluation.scores import ranker_score
from recsys.evaluation.split_evaluation import evaluate, predict
from recsys.features.contract import contract_tags, require_same_contract
from recsys.metrics.ranked_lists import TOWER
from recsys.progress import Progress
from recsys.run import fitted_baselines, prepare
from recsys.run.rank_nearest import nearest_layout, rank_nearest
from recsys.run.record import CUTOFF
from recsys.run.serving import MODEL
from recsys.run.session import RANKING_EXTRAS, TEST_EXTRAS
from recsys.run.streams import RANKING_TEST, TEST, scoring_memory, scoring_stream, started
from recsys.run.two_stages import tower_score
from recsys.sharding.first_process import by_first
from recsys.sharding.processes import ProcessContext
from recsys.towers.two_sided import TwoSidedTower


@dataclass(frozen=True)
class Scores:
    """Every metric of a ranker on a split as "<metric>/<segment>", and the baselines' on the same rows, by name."""

    ranker: dict[str, float]
    baselines: dict[str, dict[str, float]]


def run(config: RunConfig, folder: Path, split: str, progress: Progress) -> Scores:
    """Measure the run's ranker on `split`, and the baselines of the training rows beside it.

    Several processes share the rows, and all return the same.

    On the test split whole candidate lists are ranked too, where the data have them.

    Raises:
        UsageError: no such split; names those that have rows.
        DataError: no finished run, or the data have another contract than those that the ranker was trained on.
    """
    encoded = prepare.run(config, progress)
    require_split(split, encoded)
    scorer = load_scorer(folder / MODEL)
    ranker, contract = scorer.ranker, scorer.contract
    require_same_contract(encoded.contract, contract_tags(contract), f"The ranker of {folder}")
    context = started(config)
    ranker.to(context.device)
    with scoring_memory(config, context):
        predictions = predict(ranker, scoring_stream(config, encoded, split, context, TEST_EXTRAS), progress)
    scores = evaluate(predictions, contract.schema.segments).flat_metrics("")
    if split == TEST and config.evaluation.ranking:
        scores |= _ranking(config, encoded, ranker, context, progress)
    fitted = fitted_baselines.run(config, encoded, progress)
    return Scores(scores, fitted_baselines.evaluated(fitted, config, encoded, split, context))


def _ranking(
    config: RunConfig, encoded: EncodedDataset, ranker: nn.Module, context: ProcessContext, progress: Progress
) -> dict[str, float]:
    """The metrics of whole lists, by the ranker and by its tower alone; {} where the data have none."""
    if layout := nearest_layout(encoded):
        # By one process: the model is whole in each, and the events are read by one database.
        return by_first(
            lambda: rank_nearest(config, encoded, layout, ranker, context, TEST, CUTOFF, progress).flat_metrics()
        )
    if not encoded.rows(RANKING_TEST):
        return {}
    stream = scoring_stream(config, encoded, RANKING_TEST, context, RANKING_EXTRAS)
    by = {"": ranker_score(ranker)}
    tower = ranker.embedding_tower
    if isinstance(tower, TwoSidedTower) and tower.spec.user_features:
        by[TOWER] = tower_score(tower)
    schema = encoded.contract.schema
    ranked = evaluate_ranking(by, stream, schema.segments, CUTOFF, progress, schema.item)
    return {name: value for start, one in ranked.items() for name, value in one.flat_metrics(start).items()}


def require_split(split: str, encoded: EncodedDataset) -> None:
    """Refuse a split that has no rows.

    Raises:
        UsageError: names those that have.
    """
    if split not in encoded.splits:
        near = difflib.get_close_matches(split, encoded.splits, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"--split is {split!r}; the splits that have rows are {', '.join(encoded.splits)}.{hint}")
