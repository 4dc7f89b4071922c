"""LightGBM with its defaults beside a ranker: on the same encoded rows, candidate lists and metrics.

`LGBMClassifier` for labels; for queries `LGBMRanker` (lambdarank; Burges, "From RankNet to LambdaRank to LambdaMART",
2010) too. Neither draws anything by default, so one fit stands for every seed.
"""

import numpy as np
import torch
from lightgbm import LGBMClassifier, LGBMModel, LGBMRanker
from quality_features import Rows, TreeFeatures, rows_of
from torch import Tensor, nn

from recsys.evaluation.scores import Score
from recsys.evaluation.split_evaluation import evaluation_mode
from recsys.features.batch import Batch


class TreeRanker(nn.Module):
    """Boosted trees that score batches as a ranker does, by their raw score: the logit of a classifier.

    Attributes:
        embedding_tower: finds the candidates where lists are made in two stages; None where they are given.
    """

    def __init__(self, model: LGBMModel, features: TreeFeatures, embedding_tower: nn.Module | None = None) -> None:
        super().__init__()
        self._model, self._features, self.embedding_tower = model, features, embedding_tower

    def forward(self, batch: Batch) -> Tensor:
        """Return the score of every row, (B,)."""
        matrix = self._features.matrix(rows_of([batch]))
        scores = self._model.booster_.predict(matrix, raw_score=True, num_threads=self._model.n_jobs)
        return torch.from_numpy(np.asarray(scores)).float().to(batch.label.device)


def fit_classifier(features: TreeFeatures, train: Rows, threads: int) -> LGBMClassifier:
    """Fit the defaults on the training rows."""
    model = LGBMClassifier(n_jobs=threads, verbose=-1)
    return model.fit(features.known, train.label, train.weight, categorical_feature=features.categories)


def fit_lambdarank(features: TreeFeatures, train: Rows, threads: int) -> LGBMRanker:
    """Fit the defaults on the training rows of each query."""
    order = np.argsort(train.extra["query"], kind="stable")
    _, sizes = np.unique(train.extra["query"][order], return_counts=True)
    model = LGBMRanker(n_jobs=threads, verbose=-1)
    known, label, weight = features.known[order], train.label[order], train.weight[order]
    return model.fit(known, label, weight, group=sizes, categorical_feature=features.categories)


def uncorrected(ranker: nn.Module) -> Score:
    """Rank by the score alone, whatever the rates at which negatives were drawn."""

    def score(batch: Batch) -> Tensor:
        with evaluation_mode(ranker):
            return ranker(batch).double()

    return score
