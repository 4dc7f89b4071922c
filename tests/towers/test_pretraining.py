"""The two-tower objective and the recall of what it trains."""

import math
from dataclasses import replace

import pytest
import torch

from recsys.features.batch import Batch
from recsys.towers import nearest
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.pretraining import (
    TwoTowerObjective,
    count_positives,
    in_batch_softmax_loss,
    log_popularity,
    retrieval_recall,
)
from recsys.towers.tower_spec import TowerSpec
from tests.small_model import ROWS, Row, batch_of, small_contract, small_schema, two_tower_spec

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def loss_of(
    user: list[list[float]],
    item: list[list[float]],
    rows: list[int],
    shares: list[float],
    weight: list[float],
    t: float,
) -> float:
    return in_batch_softmax_loss(
        torch.tensor(user),
        torch.tensor(item),
        torch.tensor(rows),
        torch.tensor(shares).log(),
        torch.tensor(weight),
        temperature=t,
    ).item()


def test_the_loss_is_the_softmax_of_a_users_own_item_among_the_batchs() -> None:
    # Scores / temperature: user 0 (2, 0), user 1 (0, 2): both lose -log(e^2 / (e^2 + 1)).
    loss = loss_of([EAST, NORTH], [EAST, NORTH], [1, 2], [0.5, 0.5], [1, 1], t=0.5)

    assert loss == pytest.approx(-math.log(math.e**2 / (math.e**2 + 1)), abs=1e-6)


def test_a_popular_items_score_is_lowered_by_the_log_of_its_share() -> None:
    # All scores are 0 but for the correction: the shares 0.8 and 0.2 become factors 1 / 0.8 and 1 / 0.2.
    loss = loss_of([EAST, EAST], [NORTH, NORTH], [1, 2], [0.8, 0.2], [1, 1], t=1.0)

    popular, rare = 1.25 / 6.25, 5 / 6.25
    assert loss == pytest.approx(-(math.log(popular) + math.log(rare)) / 2, abs=1e-6)


def test_a_second_copy_of_the_positive_item_is_no_negative() -> None:
    # Users 0 and 1 both have item 7: each is compared with item 8 alone, user 2 with both copies.
    loss = loss_of([EAST, EAST, EAST], [NORTH, NORTH, NORTH], [7, 7, 8], [0.5, 0.5, 0.5], [1, 1, 1], t=1.0)

    assert loss == pytest.approx((math.log(2) + math.log(2) + math.log(3)) / 3, abs=1e-6)


def test_weights_count_rows() -> None:
    user, item, rows, shares = [EAST, NORTH], [EAST, EAST], [1, 2], [0.9, 0.1]

    only_first = loss_of(user, item, rows, shares, [3.0, 0.0], t=1.0)
    assert only_first == pytest.approx(-math.log((1 / 0.9) / (1 / 0.9 + 1 / 0.1)), abs=1e-6)


def test_only_positive_rows_are_learned_from() -> None:
    torch.manual_seed(0)
    tower = EmbeddingTower(two_tower_spec(), small_contract())
    objective = TwoTowerObjective(tower, "item_id", torch.zeros(6), temperature=0.2)
    positives = [row for row in ROWS if row.label]

    torch.testing.assert_close(objective(batch_of(ROWS)), objective(batch_of(positives)))


def test_a_batch_without_positives_is_a_loss_of_zero_that_reaches_the_tables_and_moves_nothing() -> None:
    tower = EmbeddingTower(two_tower_spec(), small_contract())
    loss = TwoTowerObjective(tower, "item_id", torch.zeros(6), temperature=0.2)(
        batch_of([row for row in ROWS if not row.label])
    )
    loss.backward()

    assert loss == 0
    assert all(bag.weight.grad is not None and not bag.weight.grad.any() for bag in tower.ebc.embedding_bags.values())
    assert all(parameter.grad is None for parameter in tower.user_side.parameters())


def test_positives_are_counted_by_item() -> None:
    # Positive rows have the items 2, 1 and 3.
    assert count_positives([batch_of(ROWS), batch_of(ROWS)], "item_id", 6).tolist() == [0, 2, 2, 2, 0, 0]


def test_an_item_without_positives_has_a_finite_popularity() -> None:
    assert log_popularity(torch.tensor([0, 2])).tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])


def test_training_on_the_objective_makes_users_find_their_items() -> None:
    """Four users like one item each; before training the tower cannot know which."""
    torch.manual_seed(0)
    rows = [Row(0.0, user, user, 0.0, 0, (), 0, 1) for user in range(1, 5)]
    tower = EmbeddingTower(replace(two_tower_spec(), hidden_widths=(32,)), small_contract())
    objective = TwoTowerObjective(tower, "item_id", torch.zeros(6), temperature=0.2)
    before = retrieval_recall(tower, [batch_of(rows)], "item_id", k=1)

    optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        objective(batch_of(rows)).backward()
        optimizer.step()

    assert before is not None
    assert before < 1
    assert retrieval_recall(tower, [batch_of(rows)], "item_id", k=1) == 1


def test_recall_counts_the_positives_whose_item_is_among_the_k_best_of_all_batches() -> None:
    # An imported tower is its table: item i points somewhere else, and the user is where the recent item is.
    tower = EmbeddingTower(TowerSpec.imported(small_schema(), width=2), small_contract())
    with torch.no_grad():
        tower.ebc.embedding_bags["tower_item_id"].weight.copy_(
            torch.tensor([[0, 0], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
        )

    def likes(item: int, recent: int) -> Row:
        return Row(0.0, 1, item, 0.0, 0, (recent,), 0, 1)

    # From item 1, the candidates 2, 3, 4 rank 2 > 3 > 4; the target 2 is found at k = 1, 3 at k = 2, 4 at k = 3.
    # The negative row of item 5 and the positive one of an unknown item do not count.
    batches = [
        batch_of([likes(2, 1), likes(3, 1)]),
        batch_of([likes(4, 1), replace(likes(5, 1), label=0), likes(0, 1)]),
    ]
    assert retrieval_recall(tower, batches, "item_id", k=1) == pytest.approx(1 / 3)
    assert retrieval_recall(tower, batches, "item_id", k=2) == pytest.approx(2 / 3)
    assert retrieval_recall(tower, batches, "item_id", k=3) == 1


class Vectors:
    """Stands in for a tower: user u's vector and item i's, an item's a little different in every row."""

    def __init__(self, users: int, items: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.user = torch.randn(users, 8, generator=draw)
        self.item = torch.randn(items, 8, generator=draw)

    def sides(self, batch: Batch, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        users, items = (batch.sparse[name].values()[rows] for name in ("user_id", "item_id"))
        return self.user[users], self.item[items] + batch.dense[rows, :1]


@pytest.mark.parametrize("k", [1, 20, 300])
def test_block_by_block_recall_is_that_of_one_matrix_of_all_scores(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    draw = torch.Generator().manual_seed(1)
    tower = Vectors(users=50, items=200)

    def drawn() -> Row:
        shift, user, item, label = (int(torch.randint(most, (1,), generator=draw)) for most in (700, 50, 200, 3))
        return Row(shift / 700, user, item, 0.0, 0, (), 0, min(label, 1))

    batches = [batch_of([drawn() for _ in range(rows)]) for rows in (300, 1, 170)]
    # The plain way: a dictionary, and every score at once.
    newest, asked = {}, []
    for batch in batches:
        for row in range(len(batch)):
            item = int(batch.sparse["item_id"].values()[row])
            if batch.label[row] and item:
                user, vector = tower.sides(batch, torch.tensor([row]))
                newest[item] = vector[0]
                asked.append((user[0], item))
    known = torch.tensor(list(newest))
    scores = torch.stack([user for user, _ in asked]) @ torch.stack(list(newest.values())).T
    best = known[scores.topk(min(k, len(known)), dim=1).indices]
    expected = sum(item in row for (_, item), row in zip(asked, best.tolist(), strict=True)) / len(asked)

    monkeypatch.setattr(nearest, "_USERS_AT_ONCE", 64)
    monkeypatch.setattr(nearest, "_CANDIDATES_AT_ONCE", 17)
    assert retrieval_recall(tower, batches, "item_id", k=k) == expected
    assert expected == 1.0 if k == 300 else 0 < expected < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_softmax_is_computed_in_single_precision_whatever_the_layers_are(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tower = EmbeddingTower(two_tower_spec(), small_contract())
    objective = TwoTowerObjective(tower, "item_id", torch.zeros(6), temperature=0.05)
    batch = batch_of(ROWS)
    rows = batch.label.nonzero().squeeze(1)

    with torch.autocast("cpu", dtype=dtype):
        user, item = tower.sides(batch, rows)
        loss = objective(batch)

    assert user.dtype == item.dtype == loss.dtype == torch.float32
    assert torch.allclose(user.norm(dim=1), torch.ones(len(user)), atol=1e-6)
    item_rows = batch.sparse["item_id"].values()[rows]
    assert loss == in_batch_softmax_loss(user, item, item_rows, torch.zeros(3), batch.weight[rows], 0.05)


def test_recall_without_positives_is_none_and_never_a_number() -> None:
    tower = EmbeddingTower(two_tower_spec(), small_contract())

    assert retrieval_recall(tower, [batch_of([row for row in ROWS if not row.label])], "item_id", k=1) is None
