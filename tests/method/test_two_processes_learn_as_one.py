"""Two processes with half of the rows each learn what one process learns from all of them.

The halves are unequal in what they hold: a segment, or a branch's every row, may be absent in one process and present
in the other. No process may then skip a table, and no layer may be left waiting for the other's gradient.
"""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.composition.conditional import ParallelConditionalComposition, SegmentRoutedComposition
from recsys.composition.parallel import ConcatJoin
from recsys.composition.ranker import Ranker
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext
from recsys.sharding.whole_state import table_weights
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from tests.sharding.two_processes import run_in_two
from tests.small_model import JOINED_WIDTH, ROWS, SEGMENTS, batch_of, small_ranker

# Segment 0 alone in the first process, 1 and 2 in the second.
HALVES = (ROWS[0], ROWS[2], ROWS[5]), (ROWS[1], ROWS[3], ROWS[4])
ROUTES = (("embedding_tower",), ("interaction_network",), ("interaction_network",))
COMPOSITIONS = {
    "route": lambda p: SegmentRoutedComposition(p, ROUTES, [7]),
    "parallel and conditional": lambda p: ParallelConditionalComposition(
        p, ConcatJoin(JOINED_WIDTH), len(SEGMENTS), [7]
    ),
}


def ranker_of(name: str) -> Ranker:
    return small_ranker(COMPOSITIONS[name])


def gradients_in_one_of_two(context: ProcessContext, name: str) -> dict[str, list]:
    """What each parameter moved by, or its gradient, as this process sees it; tables learn by SGD at rate 1."""
    sgd = TableOptimizer("sgd", learning_rate=1.0)
    wrapped = wrap_ranker(ranker_of(name), {"embedding_tower": sgd, "interaction_network": sgd, "head": sgd}, context)
    before = table_weights(wrapped)
    batch = batch_of(HALVES[context.rank])

    binary_cross_entropy_with_logits(wrapped(batch), batch.label).backward()
    dense = inventory_of(wrapped).dense_parameters()
    average_dense_gradients(list(dense.values()), context)

    gradients = {name: (before[name] - weight).tolist() for name, weight in table_weights(wrapped).items()}
    return gradients | {name: p.grad.tolist() for name, p in dense.items() if p.grad is not None}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_two_processes_get_the_gradients_that_one_gets_from_all_rows(name: str, tmp_path: Path) -> None:
    plain = ranker_of(name)
    batch = batch_of([row for half in HALVES for row in half])
    binary_cross_entropy_with_logits(plain(batch), batch.label).backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}

    for found in run_in_two(gradients_in_one_of_two, tmp_path, name):
        assert found.keys() == expected.keys()
        for parameter, gradient in expected.items():
            torch.testing.assert_close(torch.tensor(found[parameter]), gradient, rtol=1e-4, atol=5e-7)
