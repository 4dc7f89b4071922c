"""What the ranking metrics promise: the protocol's figures, in one pass, in any order of rows, and fair on ties."""

import math

import numpy as np
import pytest
import torch

from recsys.errors import DataError, TrainingError, UsageError
from recsys.evaluation.ranking import evaluate_ranking, load_ranking, save_ranking
from recsys.evaluation.scores import column_score, ranker_score
from recsys.metrics.ranked_lists import SCOPES
from tests.evaluation.small_split import FirstColumnRanker, Stream, rows

SEGMENTS = ("new", "heavy")


def _protocol_scores_at_20(score, relevant, candidate):
    """`scores_at_20` of the protocol's baseline script, word for word but for its name."""
    relevant = relevant[candidate[relevant]]
    if len(relevant) == 0:
        return None
    score = np.where(candidate, score, -np.inf)
    top = np.argpartition(-score, 20)[:20]
    top = top[np.argsort(-score[top], kind="stable")]
    hit = np.isin(top, relevant)
    discount = 1 / np.log2(np.arange(2, 22))
    return hit.sum() / len(relevant), (hit * discount).sum() / discount[: min(len(relevant), 20)].sum()


def _rank(split, cutoff=2, **scores):
    return evaluate_ranking(scores or {"column": column_score(("logit",), "logit")}, split, SEGMENTS, cutoff)


def test_recall_and_ndcg_of_one_query_are_those_worked_out_by_hand():
    # Order by score: a relevant, b not | c relevant, d relevant, e not. At 2: one of three; ideal: 1 + 1/log2(3).
    split = Stream(rows(logit=[5.0, 4.0, 3.0, 2.0, 1.0], label=[1, 0, 1, 1, 0], query=[8] * 5), batch_size=5)
    result = _rank(split)["column"]
    assert result.mean("recall", "all") == pytest.approx(1 / 3)
    assert result.mean("ndcg", "all") == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_products_bought_before_leave_candidates_and_relevant_alike():
    # New to the user: rows 1 (not relevant) and 3 (relevant), in that order.
    split = Stream(
        rows(logit=[5.0, 4.0, 3.0, 2.0], label=[1, 0, 0, 1], query=[8] * 4, is_new_to_user=[0, 1, 0, 1]), batch_size=3
    )
    result = _rank(split)["column"]
    assert result.mean("recall", "new_to_user") == 1.0
    assert result.mean("ndcg", "new_to_user") == pytest.approx(1 / math.log2(3))
    assert result.mean("recall", "all") == 0.5


def test_queries_without_a_relevant_candidate_are_left_out_and_counted():
    split = Stream(
        rows(
            logit=[1.0, 2.0, 1.0, 2.0],
            label=[0, 1, 0, 0],
            segment=[1, 1, 0, 0],
            query=[3, 3, 4, 4],
            is_new_to_user=[1, 0, 1, 1],
        ),
        batch_size=2,
    )
    result = _rank(split)["column"]
    assert result.mean("recall", "all") == 1.0
    assert result.by_scope["all"].queries_left_out == 1
    assert result.mean("recall", "all", "new") is None
    assert result.mean("recall", "new_to_user") is None
    flat = result.flat_metrics("test")
    assert flat == {
        "test_recall_2/all": 1.0,
        "test_ndcg_2/all": 1.0,
        "test_mrr_2/all": 1.0,
        "test_recall_2/heavy": 1.0,
        "test_ndcg_2/heavy": 1.0,
        "test_mrr_2/heavy": 1.0,
        "test_queries/all": 1.0,
        "test_queries/new": 0.0,
        "test_queries/heavy": 1.0,
    }


def _random_lists(seed: int, queries: int, products: int):
    rng = np.random.default_rng(seed)
    candidate = rng.random((queries, products)) < 0.8
    relevant = rng.random((queries, products)) < 0.05
    is_new = rng.random((queries, products)) < 0.6
    score = rng.normal(size=(queries, products)).astype(np.float32)
    return candidate, relevant, is_new, score


@pytest.mark.parametrize("batch_size", [37, 500, 100_000])
def test_figures_equal_the_protocol_script_for_rows_in_any_order_and_batches_of_any_size(batch_size):
    candidate, relevant, is_new, score = _random_lists(seed=0, queries=40, products=120)
    query, product = np.nonzero(candidate)
    shuffled = np.random.default_rng(1).permutation(len(query))
    query, product = query[shuffled], product[shuffled]
    split = Stream(
        rows(
            logit=score[query, product].tolist(),
            label=relevant[query, product].astype(float).tolist(),
            segment=(query % 2).tolist(),
            query=query.tolist(),
            is_new_to_user=is_new[query, product].astype(int).tolist(),
        ),
        batch_size,
    )
    result = _rank(split, cutoff=20)["column"]

    for scope, mask in (("all", candidate), ("new_to_user", candidate & is_new)):
        by_query = {
            q: values
            for q in range(40)
            if (values := _protocol_scores_at_20(score[q], np.flatnonzero(relevant[q]), mask[q])) is not None
        }
        for segment, members in (("all", by_query), ("heavy", {q: v for q, v in by_query.items() if q % 2 == 1})):
            expected = np.array(list(members.values())).mean(axis=0)
            assert result.mean("recall", scope, segment) == pytest.approx(expected[0], abs=1e-12)
            assert result.mean("ndcg", scope, segment) == pytest.approx(expected[1], abs=1e-12)


def test_the_kept_rows_are_cut_back_while_the_rows_stream_past_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr("recsys.evaluation.query_tops._ROWS_BEFORE_A_CUT", 10)
    test_figures_equal_the_protocol_script_for_rows_in_any_order_and_batches_of_any_size(batch_size=7)


def test_a_score_that_is_the_same_for_all_rows_gains_nothing_from_relevant_rows_that_come_first():
    queries, products = 400, 50
    split = Stream(
        rows(
            logit=[0.0] * (queries * products),
            label=([1.0] * 5 + [0.0] * 45) * queries,
            query=np.repeat(np.arange(queries), products).tolist(),
        ),
        batch_size=1000,
    )
    # By chance 10 of 50 places hold a fifth of the relevant rows; sd of the mean is about 0.008.
    assert _rank(split, cutoff=10)["column"].mean("recall", "all") == pytest.approx(0.2, abs=0.04)


def test_ties_fall_the_same_way_whatever_the_batch_size():
    rng = np.random.default_rng(2)
    whole = rows(
        logit=rng.integers(3, size=600).astype(float).tolist(),
        label=(rng.random(600) < 0.1).astype(float).tolist(),
        query=np.repeat(np.arange(20), 30).tolist(),
    )
    few, many = (_rank(Stream(whole, size), cutoff=5)["column"].by_scope["all"] for size in (600, 11))
    np.testing.assert_array_equal(few.values["ndcg"], many.values["ndcg"])


def test_a_ranker_trained_on_sampled_negatives_is_ranked_by_its_logit_plus_the_log_of_the_sampling_rate():
    # The logit prefers row 1; the sampling correction of log 8 puts row 0 first.
    split = Stream(
        rows(logit=[0.0, 1.0], label=[1, 0], query=[1, 1], log_sampling_rate=[math.log(8), 0.0]), batch_size=2
    )
    scores = {"ranker": ranker_score(FirstColumnRanker()), "plain": column_score(("logit",), "logit")}
    result = _rank(split, cutoff=1, **scores)
    assert result["ranker"].mean("recall", "all") == 1.0
    assert result["plain"].mean("recall", "all") == 0.0


def test_a_ranker_is_scored_in_evaluation_mode_without_a_graph_and_left_in_the_mode_it_had():
    ranker = FirstColumnRanker().train()
    ranker.embedding_tower.eval()
    ranker.embedding_tower[0].train()  # a dropout of everything, were it not for evaluation mode
    batch = rows(logit=[1.0, 2.0], label=[0, 1])
    batch.dense.requires_grad_()
    score = ranker_score(ranker)(batch)
    assert score.tolist() == [1.0, 2.0]
    assert not score.requires_grad
    assert (ranker.training, ranker.embedding_tower.training, ranker.embedding_tower[0].training) == (True, False, True)


def test_a_rule_ranks_by_its_first_column_and_breaks_ties_by_the_next():
    batch = rows(logit=[0.1, 0.1, -2.0], label=[0, 0, 0], popularity=[1.0, 3.0, 9.0])
    score = column_score(("bought",), "bought", "popularity")(batch)
    assert torch.argsort(score, descending=True).tolist() == [1, 0, 2]


def test_a_rule_over_an_absent_column_is_refused_with_the_columns_there_are():
    with pytest.raises(
        UsageError, match=r"'popularity' is not in the data. Dense features: bought; extra columns: query"
    ):
        column_score(("bought",), "popularity")(rows(logit=[0.0], label=[0], query=[1]))


def test_rows_without_a_query_are_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"needs the column `query`.*the batch has user_key.*ranking split"):
        _rank(Stream(rows(logit=[0.0], label=[1], user_key=[1]), 1))


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="0 rows to rank"):
        _rank(Stream(rows(logit=[], label=[], query=[]), 1))


def test_a_query_of_two_segments_is_refused_by_number():
    with pytest.raises(DataError, match="more than one segment, the first is query 6"):
        _rank(Stream(rows(logit=[0.0, 1.0], label=[1, 0], segment=[0, 1], query=[6, 6]), 1))


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(TrainingError, match="1 scores of a batch are NaN"):
        _rank(Stream(rows(logit=[float("nan"), 1.0], label=[1, 0], query=[6, 6]), 2))


def test_without_a_sampling_rate_the_logit_ranks_alone():
    batch = rows(logit=[1.0, 2.0], label=[0, 1])
    assert ranker_score(FirstColumnRanker().eval())(batch).tolist() == [1.0, 2.0]


def test_a_stored_ranking_comes_back_bit_for_bit_with_its_values_by_query(tmp_path):
    split = Stream(
        rows(
            logit=[5.0, 4.0, 3.0, 2.0],
            label=[1, 0, 0, 1],
            segment=[1, 1, 0, 0],
            query=[8, 8, 9, 9],
            user_key=[70, 70, 71, 71],
            is_new_to_user=[0, 1, 0, 1],
        ),
        batch_size=3,
    )
    ranking = _rank(split, cutoff=1)["column"]
    save_ranking(ranking, tmp_path / "ranking")
    loaded = load_ranking(tmp_path / "ranking")

    assert loaded.flat_metrics("test") == ranking.flat_metrics("test")
    assert loaded.by_scope[SCOPES[1]].queries_left_out == 1
    recall = loaded.by_query()["recall_1"]
    assert (recall.user.tolist(), recall.segment.tolist(), recall.value.tolist()) == ([70, 71], [1, 0], [1.0, 0.0])
    assert set(loaded.by_query()) == {"recall_1", "ndcg_1", "mrr_1", "recall_1_new", "ndcg_1_new", "mrr_1_new"}


def test_absent_and_damaged_rankings_are_refused_by_path(tmp_path):
    with pytest.raises(DataError, match=r"No ranking at .*nowhere"):
        load_ranking(tmp_path / "nowhere")
    (tmp_path / "ranking.safetensors").write_bytes(b"\x05" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        load_ranking(tmp_path)
