"""What evaluation over two processes promises: the figures of one process, though their shares of rows are unequal."""

from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from recsys.errors import DataError
from recsys.evaluation.ranking import evaluate_ranking
from recsys.evaluation.scores import column_score
from recsys.evaluation.split_evaluation import predict
from tests.evaluation.small_split import FirstColumnRanker, Stream, rows
from tests.sharding.two_processes import start_in_two


def _share(rank: int) -> Stream:
    """Rank 0 has one row of query 1; rank 1 has its other three and all of query 2."""
    logit, label, query, is_new = [4.0, 3.0, 2.0, 1.0, 1.0, 2.0], [0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 2, 2], [1] * 6
    part = slice(0, 1) if rank == 0 else slice(1, 6)
    return Stream(rows(logit[part], label[part], query=query[part], is_new_to_user=is_new[part]), batch_size=2)


def _evaluate_on_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        predictions = predict(FirstColumnRanker(), _share(rank))
        ranking = evaluate_ranking({"rule": column_score(("x",), "x")}, _share(rank), ("only",), 2)["rule"]
        refusal = ""
        try:
            predict(FirstColumnRanker(), [] if rank == 0 else _share(1))
        except DataError as error:
            refusal = str(error)
        np.savez(
            folder / f"{rank}.npz",
            logit=predictions.logit,
            query=predictions.extra["query"],
            recall=ranking.by_scope["new_to_user"].values["recall"],
            refusal=refusal,
        )
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_in_two(_evaluate_on_rank, (folder,))
    return [np.load(folder / f"{rank}.npz") for rank in (0, 1)]


def test_both_processes_hold_all_rows_once_though_one_ran_out_early(two_ranks):
    for found in two_ranks:
        np.testing.assert_array_equal(found["logit"], np.float32([4, 3, 2, 1, 1, 2]))
        np.testing.assert_array_equal(found["query"], [1, 1, 1, 1, 2, 2])


def test_a_query_that_is_spread_over_processes_is_ranked_as_one_list(two_ranks):
    # Query 1: its best two are 4 (not relevant) and 3 (one of two relevant ones). Query 2: one of one.
    for found in two_ranks:
        np.testing.assert_array_equal(found["recall"], [0.5, 1.0])


def test_a_process_without_rows_is_an_error_on_both_and_no_deadlock(two_ranks):
    for found in two_ranks:
        assert "1 of 2 processes have no rows to evaluate" in str(found["refusal"])
