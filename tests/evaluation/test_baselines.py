"""What the baselines are fitted to, what they score, and how sure a difference in log loss is."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from recsys.evaluation.baselines import CONSTANT, LOGISTIC, LogisticRanker, fit_baselines, gain_error
from recsys.features.batch import Batch
from recsys.metrics.log_loss import log_loss
from recsys.metrics.predictions import Predictions
from tests.small_model import Row, batch_of, small_contract


def drawn_rows(count: int, seed: int = 0) -> list[Row]:
    """Labels that follow age, the user and the item; price tells nothing."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        user, item = int(random.integers(0, 4)), int(random.integers(0, 5))
        age, price = random.normal(size=2).tolist()
        score = 0.8 * age + (0.0, -1.0, 1.0, 0.5)[user] + (0.0, 1.5, -1.0, 0.0, 0.5)[item]
        label = int(random.random() < 1 / (1 + math.exp(-score)))
        rows.append(Row(user_id=user, item_id=item, brand=1, recent=(), age=age, price=price, segment=0, label=label))
    return rows


def columns_of(batch: Batch, users: int, items: int) -> np.ndarray:
    user, item = (batch.sparse[name].values() for name in ("user_id", "item_id"))
    one_hot = [torch.nn.functional.one_hot(ids, size)[:, 1:] for ids, size in ((user, users), (item, items))]
    return torch.cat([batch.dense, *one_hot], dim=1).double().numpy()


def test_the_constant_is_the_mean_label_and_its_normalised_entropy_on_the_same_rows_is_one() -> None:
    batch = batch_of(drawn_rows(40))
    constant = fit_baselines([batch], [batch], small_contract(), threads=1)[CONSTANT]

    rate = batch.label.mean().item()
    torch.testing.assert_close(torch.sigmoid(constant(batch)), torch.full((40,), rate))
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert log_loss(batch.label.numpy(), constant(batch).numpy()) == pytest.approx(entropy, rel=1e-6)


def test_the_logistic_regression_is_scikit_learns_at_the_penalty_that_validation_likes_best() -> None:
    train, validation = batch_of(drawn_rows(400)), batch_of(drawn_rows(300, seed=1))
    contract = small_contract()
    fitted = fit_baselines([train], [validation], contract, threads=1)[LOGISTIC]

    users, items = contract.table_rows["user_id"], contract.table_rows["item_id"]
    x, y = columns_of(train, users, items), train.label.numpy()
    by_hand = {}
    for variance in (0.0003, 0.003, 0.03, 0.3, 3.0):
        model = LogisticRegression(C=variance, tol=1e-8, max_iter=1000).fit(x, y)
        logits = model.decision_function(columns_of(validation, users, items))
        by_hand[log_loss(validation.label.numpy(), logits)] = logits
    np.testing.assert_allclose(fitted(validation).numpy(), by_hand[min(by_hand)], atol=2e-3)


def test_batches_and_their_order_make_no_difference_and_rows_of_weight_zero_count_for_nothing() -> None:
    rows, contract = drawn_rows(200), small_contract()
    whole = fit_baselines([batch_of(rows)], [batch_of(rows[:50])], contract, threads=1)[LOGISTIC]
    beside = batch_of(drawn_rows(100, seed=5))
    beside.weight.zero_()
    parts = [batch_of(rows[:80]), beside, batch_of(rows[80:])]
    cut = fit_baselines(parts, [batch_of(rows[:50])], contract, threads=1)[LOGISTIC]

    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_an_unknown_user_or_item_adds_nothing() -> None:
    fitted = fit_baselines([batch_of(drawn_rows(200))], [batch_of(drawn_rows(50))], small_contract(), threads=1)
    assert fitted[LOGISTIC].user[0] == 0
    assert fitted[LOGISTIC].item[0] == 0


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_give_two_finite_constants(label: int) -> None:
    rows = [Row(0.1, 1, 1, 0.2, 1, (), 0, label)] * 9
    fitted = fit_baselines([batch_of(rows)], [batch_of(rows)], small_contract(), threads=1)

    assert torch.isfinite(fitted[CONSTANT](batch_of(rows))).all()
    torch.testing.assert_close(fitted[LOGISTIC](batch_of(rows)), fitted[CONSTANT](batch_of(rows)))


def test_the_weights_of_a_new_logistic_ranker_are_zero() -> None:
    assert not LogisticRanker(small_contract())(batch_of(drawn_rows(3))).any()


def predictions(logit: list[float], label: list[float], weight: list[float]) -> Predictions:
    columns = (np.array(column, np.float32) for column in (logit, label, weight))
    logits, labels, weights = columns
    return Predictions(logits, labels, np.zeros(len(logits), np.int64), weights)


def test_the_error_of_a_gain_is_that_of_a_mean_of_differences() -> None:
    random = np.random.default_rng(0)
    label, weight = (random.random(500) < 0.4).astype(float).tolist(), [1.0] * 500
    first, second = random.normal(size=500).tolist(), random.normal(size=500).tolist()

    found = gain_error(predictions(first, label, weight), predictions(second, label, weight))

    def losses(logit: list[float]) -> np.ndarray:
        return np.log1p(np.exp(np.where(np.array(label) == 1, -1, 1) * np.array(logit)))

    assert found == pytest.approx((losses(first) - losses(second)).std() / math.sqrt(500), rel=1e-5)


def test_rankers_that_say_the_same_differ_by_nothing_for_sure_and_so_do_rows_without_weight() -> None:
    same = predictions([1.0, -1.0], [1, 0], [1, 1])
    assert gain_error(same, same) == 0
    assert gain_error(predictions([3.0], [1], [0]), predictions([1.0], [1], [0])) == 0
