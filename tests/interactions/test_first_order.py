"""What every id and every number says by itself, and what a ranker starts as."""

import torch

from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.evaluation.baselines import LogisticRanker
from recsys.interactions.first_order import FirstOrder
from tests.small_model import JOINED_WIDTH, ROWS, batch_of, small_contract, small_ranker


def test_it_starts_at_zero_for_every_row() -> None:
    assert not FirstOrder(small_contract())(batch_of(ROWS)).any()


def test_it_adds_up_one_weight_per_id_and_per_number() -> None:
    first_order = FirstOrder(small_contract())
    users, items = torch.arange(5.0), 10 * torch.arange(6.0)
    first_order.load_logistic([0.5, 2.0], {"user_id": users, "item_id": items, "unread": torch.ones(3)})

    found = first_order(batch_of(ROWS))

    # The first row: age 0.5 and price -1, user 1 and item 2; its list has weights of its own, which are still 0.
    assert found[0] == 0.5 * 0.5 + 2.0 * -1.0 + 1 + 20
    by_hand = [0.5 * row.age + 2 * row.price + row.user_id + 10 * row.item_id for row in ROWS]
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=found.dtype))


def test_a_list_counts_with_the_mean_of_its_ids_weights_and_an_empty_one_with_nothing() -> None:
    first_order = FirstOrder(small_contract())
    first_order.load_logistic([0.0, 0.0], {"recent": torch.tensor([0.0, 1, 10, 100, 1000, 10000])})

    found = first_order(batch_of(ROWS))

    assert found[0] == (100 + 100 + 1) / 3
    assert found[1] == 0


def test_a_weight_moves_at_the_tables_own_rate_however_wide_its_table_is() -> None:
    first_order = FirstOrder(small_contract())
    table = first_order.ebc.embedding_bags["first_order_user_id"].weight

    first_order(batch_of(ROWS[:1])).sum().backward()

    # Row-wise Adagrad's first step is the rate times the gradient over its root mean square: 1 for every copy.
    gradient = table.grad[ROWS[0].user_id]
    assert torch.equal(gradient / gradient.square().mean().sqrt(), torch.ones_like(gradient))


def test_a_ranker_that_starts_from_a_regression_is_it_but_for_what_is_joined() -> None:
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)))
    logistic = LogisticRanker(small_contract())
    for buffer in logistic.buffers():
        buffer.uniform_(-1, 1)
    with torch.no_grad():
        for table in ranker.head.first_order.ebc.parameters():
            table.zero_()
        ranker.head.output.weight.zero_()

    ranker.head.start_from(float(logistic.intercept), logistic.dense_weights, logistic.id_weights)

    torch.testing.assert_close(ranker(batch_of(ROWS)), logistic(batch_of(ROWS)))


def test_every_step_of_its_gradient_is_the_losss_own() -> None:
    # The loss's derivative by a row's logit is what each of the row's weights gets.
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)))
    batch = batch_of(ROWS)
    logits = ranker(batch)
    logits.retain_grad()
    torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label).backward()

    torch.testing.assert_close(ranker.head.first_order.dense_weight.grad, logits.grad @ batch.dense)
