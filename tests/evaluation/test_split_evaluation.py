"""What one pass over a split promises: every row, the ranker left as it was, and no figure where there is none."""

import json

import numpy as np
import pytest
import torch

from recsys.errors import DataError, TrainingError
from recsys.evaluation.split_evaluation import evaluate, evaluation_from_json, predict
from recsys.evaluation.stored_predictions import load_predictions, save_predictions
from recsys.metrics.predictions import Predictions
from tests.evaluation.small_split import FirstColumnRanker, Stream, rows

SEGMENTS = ("cold", "light", "heavy")


def _split(batch_size: int = 2) -> Stream:
    return Stream(
        rows(
            logit=[2.0, -1.0, 0.5, 0.0, 3.0],
            label=[1, 0, 1, 1, 1],
            segment=[0, 0, 0, 1, 1],
            user_key=[5, 5, 6, 7, 7],
            true_probability=[0.9, 0.2, 0.7, 0.8, 0.6],
        ),
        batch_size,
    )


def test_every_row_is_predicted_once_and_in_order_whatever_the_batch_size():
    for batch_size in (1, 2, 5, 99):
        predictions = predict(FirstColumnRanker(), _split(batch_size))
        np.testing.assert_array_equal(predictions.logit, np.float32([2.0, -1.0, 0.5, 0.0, 3.0]))
        np.testing.assert_array_equal(predictions.extra["user_key"], [5, 5, 6, 7, 7])


def test_more_batches_than_are_copied_at_once_lose_no_row():
    count = 150
    split = Stream(rows(logit=[float(i) for i in range(count)], label=[i % 2 for i in range(count)]), batch_size=1)
    np.testing.assert_array_equal(predict(FirstColumnRanker(), split).logit, np.arange(count))


def test_a_frozen_tower_in_evaluation_mode_stays_in_it_while_the_rest_goes_back_to_training():
    ranker = FirstColumnRanker().train()
    ranker.embedding_tower.eval()
    predict(ranker, _split())
    assert ranker.training
    assert ranker.head.training
    assert not ranker.embedding_tower.training
    assert not ranker.embedding_tower[0].training


def test_the_ranker_is_left_as_it_was_when_a_batch_fails():
    ranker = FirstColumnRanker().train()
    with pytest.raises(RuntimeError, match="torn batch"):
        predict(ranker, _failing())
    assert ranker.embedding_tower[0].training
    assert torch.is_grad_enabled()


def _failing():
    yield from _split()
    raise RuntimeError("torn batch")


def test_no_graph_is_built():
    seen = []

    class Watching(FirstColumnRanker):
        def forward(self, batch):
            seen.append(self.head(batch.dense).requires_grad)
            return super().forward(batch)

    predict(Watching(), _split())
    assert seen == [False, False, False]


def test_a_logit_that_is_not_finite_stops_the_evaluation_with_its_row():
    split = Stream(rows(logit=[0.0, float("nan"), float("inf")], label=[0, 1, 0]), batch_size=2)
    with pytest.raises(TrainingError, match=r"2 of 3 logits are not finite, the first in row 1 \(nan\)"):
        predict(FirstColumnRanker(), split)


def test_segments_are_measured_apart_and_an_absent_one_has_support_0_and_no_metric():
    evaluation = evaluate(predict(FirstColumnRanker(), _split()), SEGMENTS)
    flat = evaluation.flat_metrics("test")

    assert evaluation.overall["auc"] == 1.0
    assert flat["test_auc/cold"] == 1.0
    assert flat["test_support/heavy"] == 0.0
    assert flat["test_support/all"] == 5.0
    assert "test_auc/light" not in flat  # one class
    assert flat["test_log_loss/light"] == pytest.approx((np.log(2) + np.log1p(np.exp(-3))) / 2)
    assert not [name for name in flat if name.endswith("/heavy") and name != "test_support/heavy"]


def test_users_of_one_class_are_counted_and_left_out_of_the_grouped_auc():
    evaluation = evaluate(predict(FirstColumnRanker(), _split()), SEGMENTS)
    assert evaluation.overall["grouped_auc"] == 1.0
    assert (evaluation.support["all"].users, evaluation.support["all"].one_class_users) == (1, 2)


def test_a_known_world_puts_the_best_possible_score_beside_the_reached_one():
    # Best: probabilities 0.9 0.7 0.8 0.6 of positives are all above the 0.2 of the negative, AUC 1, as is the ranker's.
    metrics = evaluate(predict(FirstColumnRanker(), _split()), SEGMENTS).overall
    best_loss = -np.log([0.9, 0.8, 0.7, 0.8, 0.6]).mean()
    assert metrics["auc_share_of_best"] == 1.0
    assert metrics["log_loss_above_best"] == pytest.approx(metrics["log_loss"] - best_loss)


def test_an_empty_split_is_all_undefined():
    evaluation = evaluate(predict(FirstColumnRanker(), []), SEGMENTS)
    assert set(evaluation.overall.values()) == {None}
    assert evaluation.support["all"].rows == 0


def test_an_empty_prefix_gives_bare_metric_names():
    assert "auc/all" in evaluate(predict(FirstColumnRanker(), _split()), SEGMENTS).flat_metrics("")


def test_an_evaluation_survives_json():
    evaluation = evaluate(predict(FirstColumnRanker(), _split()), SEGMENTS)
    text = evaluation.to_json()
    assert json.loads(text)["support"]["all"]["rows"] == 5
    assert evaluation_from_json(text) == evaluation


def test_stored_predictions_come_back_bit_for_bit(tmp_path):
    predictions = predict(FirstColumnRanker(), _split())
    save_predictions(predictions, tmp_path / "arm")
    loaded = load_predictions(tmp_path / "arm")
    for name, column in predictions.columns().items():
        assert loaded.columns()[name].dtype == column.dtype
        np.testing.assert_array_equal(loaded.columns()[name], column)


def test_absent_and_damaged_predictions_are_refused_by_path(tmp_path):
    with pytest.raises(DataError, match=r"No predictions at .*nowhere"):
        load_predictions(tmp_path / "nowhere")
    save_predictions(predict(FirstColumnRanker(), _split()), tmp_path / "arm")
    (tmp_path / "arm" / "predictions.safetensors").write_bytes(b"\x05" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        load_predictions(tmp_path / "arm")


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="'segment': 1"):
        Predictions(np.zeros(2), np.zeros(2), np.zeros(1), np.zeros(2))
