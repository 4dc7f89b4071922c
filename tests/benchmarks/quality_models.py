"""The models that `quality.py` puts side by side: the recipe, as a command trains it, LightGBM, and regressions."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from quality_features import TreeFeatures, rows_of
from quality_lightgbm import TreeRanker, fit_classifier, fit_lambdarank, uncorrected
from quality_measures import Tested
from torch import nn

from recsys.artifacts.export import load_scorer
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation.baselines import CONSTANT, LOGISTIC, fit_baselines
from recsys.evaluation.ranking import RankingEvaluation, evaluate_ranking, load_ranking
from recsys.evaluation.scores import Score, column_score, ranker_score
from recsys.evaluation.split_evaluation import evaluate, predict
from recsys.evaluation.stored_predictions import load_predictions
from recsys.features.batch import Batch
from recsys.progress import Progress
from recsys.run import fitted_baselines, train
from recsys.run.folder import PREDICTIONS, QUERIES, RunIdentity, new_run
from recsys.run.rank_nearest import nearest_layout, rank_nearest
from recsys.run.record import CUTOFF
from recsys.run.serving import MODEL
from recsys.run.session import RANKING_EXTRAS, TEST_EXTRAS
from recsys.run.streams import RANKING_TEST, TEST, TRAIN, VALIDATION, scoring_stream, started
from recsys.sharding.processes import ProcessContext

RECIPE, TREES, LAMBDARANK = "recipe", "lightgbm", "lightgbm lambdarank"
IDS_ALONE = "logistic, user and item alone"
_QUERY = "query"


@dataclass(frozen=True)
class TrainedRecipe:
    """The recipe of one seed: where it is, how it tested, and the processor's seconds that it took."""

    identity: RunIdentity
    tested: Tested
    seconds: float


def train_recipe(config: RunConfig, progress: Progress) -> TrainedRecipe:
    """Do what `recsys train` does, on rows that are prepared; read back what it left."""
    identity, start = new_run(config), time.process_time()
    result = train.run(config, identity, progress)
    seconds = time.process_time() - start
    queries = load_ranking(identity.folder / QUERIES).by_query() if (identity.folder / QUERIES).is_dir() else {}
    predictions = load_predictions(identity.folder / PREDICTIONS)
    return TrainedRecipe(identity, Tested(result.scores, predictions, queries), seconds)


def others_tested(
    config: RunConfig, encoded: EncodedDataset, recipe: TrainedRecipe, progress: Progress
) -> dict[str, Tested]:
    """Fit what the recipe is compared with on the same training rows, and test it on the same rows and lists."""
    return _Bench(config, encoded, started(config), recipe, progress).tested()


@dataclass(frozen=True)
class _Bench:
    config: RunConfig
    encoded: EncodedDataset
    context: ProcessContext
    recipe: TrainedRecipe
    progress: Progress

    def tested(self) -> dict[str, Tested]:
        rankers = {**self._regressions(), **self._trees()}
        lists = self._ranked(rankers)
        found = {name: self._tested(ranker, lists.pop(name, None)) for name, ranker in rankers.items()}
        if LAMBDARANK in found:
            # Its scores order the rows of a query, and are no logits.
            scores = {key: value for key, value in found[LAMBDARANK].scores.items() if not key.startswith("log_loss")}
            found[LAMBDARANK] = replace(found[LAMBDARANK], scores=scores)
        return found | {name: _of_lists(ranked) for name, ranked in lists.items()}

    def _regressions(self) -> dict[str, nn.Module]:
        known = fitted_baselines.run(self.config, self.encoded, self.progress)
        ids_alone = fit_baselines(
            _without_numbers(self._stream(TRAIN)),
            _without_numbers(self._stream(VALIDATION)),
            self.encoded.contract,
            self.config.runtime.cores,
        )
        return {CONSTANT: known[CONSTANT], LOGISTIC: known[LOGISTIC], IDS_ALONE: ids_alone[LOGISTIC]}

    def _trees(self) -> dict[str, nn.Module]:
        self.progress("fitting LightGBM", 0, 0)
        train_rows = rows_of(self._stream(TRAIN, (_QUERY,)))
        features = TreeFeatures(self.encoded.contract, train_rows)
        threads = self.config.runtime.cores
        # In two stages the recipe's own tower finds the candidates of every model.
        tower = load_scorer(self.recipe.identity.folder / MODEL).ranker.embedding_tower if self._is_nearest else None
        trees = {TREES: TreeRanker(fit_classifier(features, train_rows, threads), features, tower)}
        if _QUERY in train_rows.extra:
            trees[LAMBDARANK] = TreeRanker(fit_lambdarank(features, train_rows, threads), features, tower)
        return dict(trees)

    @property
    def _is_nearest(self) -> bool:
        return self.config.evaluation.ranking and nearest_layout(self.encoded) is not None

    def _ranked(self, rankers: Mapping[str, nn.Module]) -> dict[str, RankingEvaluation]:
        """Whole lists, by every model that can rank them; in order of the list's rule too, where lists are prepared."""
        if not self.config.evaluation.ranking:
            return {}
        if layout := nearest_layout(self.encoded):
            trees = {name: each for name, each in rankers.items() if isinstance(each, TreeRanker)}
            return {
                name: rank_nearest(
                    self.config, self.encoded, layout, ranker, self.context, TEST, CUTOFF, self.progress
                ).ranker
                for name, ranker in trees.items()
            }
        if not self.encoded.rows(RANKING_TEST):
            return {}
        schema = self.encoded.contract.schema
        scores: dict[str, Score] = {name: ranker_score(ranker) for name, ranker in rankers.items()}
        if LAMBDARANK in rankers:
            scores[f"{LAMBDARANK}, as it is"] = uncorrected(rankers[LAMBDARANK])
        names = tuple(feature.name for feature in schema.dense)
        for rule, columns in getattr(self.config.data, "ranking_baselines", {}).items():
            scores[rule] = column_score(names, *columns)
        stream = self._stream(RANKING_TEST, RANKING_EXTRAS)
        return evaluate_ranking(scores, stream, schema.segments, CUTOFF, self.progress, schema.item)

    def _tested(self, ranker: nn.Module, lists: RankingEvaluation | None) -> Tested:
        predictions = predict(ranker, self._stream(TEST, TEST_EXTRAS))
        scores = evaluate(predictions, self.encoded.contract.schema.segments).flat_metrics("")
        ranked = _of_lists(lists) if lists else Tested({})
        return Tested({**scores, **ranked.scores}, predictions, ranked.queries)

    def _stream(self, split: str, extras: tuple[str, ...] = ()) -> Iterator[Batch]:
        return iter(scoring_stream(self.config, self.encoded, split, self.context, extras))


def _of_lists(ranked: RankingEvaluation) -> Tested:
    return Tested(ranked.flat_metrics(""), None, ranked.by_query())


def _without_numbers(batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield replace(batch, dense=torch.zeros_like(batch.dense))
