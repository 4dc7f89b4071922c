"""The penalty on looked-up vectors: its value by hand, its gradient that of the plain model, seen by gate and norms."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.build import build_table_l2
from recsys.config.compose import compose_config
from recsys.monitoring.gradient_norms import WHOLE
from recsys.sharding.input_ahead import InputAhead
from recsys.sharding.whole_state import whole_state
from recsys.training.modes import FROZEN_TOWER, TOWER_DENSE
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.table_l2 import with_table_l2
from tests.method import plain_ranker as plain
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS, RELATIVE_TOLERANCE
from tests.small_model import ROWS, Row, batch_of, small_ranker
from tests.training.small_run import Batches, SmallRun, small_run

STRENGTHS = {"embedding_tower": 0.3, "interaction_network": 0.2, "head": 0.1}
MAKE, COMPOSE = COMPOSITIONS["conditional gate and experts"]


class OneTable(nn.Module):
    """A part with one table of two columns, the ids for its rows."""

    def __init__(self) -> None:
        super().__init__()
        config = EmbeddingBagConfig(name="item", num_embeddings=4, embedding_dim=2, feature_names=["item_id"])
        self.ebc = EmbeddingBagCollection(tables=[config])
        with torch.no_grad():
            self.ebc.embedding_bags["item"].weight.copy_(torch.tensor([[9.0, 9], [1, 2], [3, 0], [0, 4]]))


def test_value_and_gradient_by_hand():
    ranker = nn.ModuleDict({"embedding_tower": OneTable(), "head": OneTable()})
    rows = [Row(0.0, 0, item, 0.0, 0, (), 0, 1) for item in (1, 1, 2, 3)]

    def objective(module, batch):
        for part in module.values():
            batch.look_up(part.ebc, batch.sparse)
        return torch.tensor(1.0)

    batch = batch_of(rows)
    loss = with_table_l2(objective, {"embedding_tower": 0.5})(ranker, batch)
    loss.backward()

    # Squared norms: 5, 5, 9 and 16, of mean 8.75.
    assert loss.item() == 1.0 + 0.5 * 8.75
    # 2 * 0.5 / 4 * w, once for each row that looked w up.
    gradient = ranker["embedding_tower"].ebc.embedding_bags["item"].weight.grad
    assert gradient.tolist() == [[0.0, 0.0], [0.5, 1.0], [0.75, 0.0], [0.0, 1.0]]
    assert ranker["head"].ebc.embedding_bags["item"].weight.grad is None
    assert batch.looked_up is None


def penalty(p: plain.Parameters, rows: tuple[Row, ...], strengths: dict[str, float]) -> torch.Tensor:
    tower, network = (
        "embedding_tower.ebc.embedding_bags.tower_",
        "interaction_network.fields.ebc.embedding_bags.network_",
    )
    head = "head.first_order.ebc.embedding_bags.first_order_"
    total = plain.numbers(p, 0.0)[0]
    for row in rows:
        users, items, segments = (p[f"{network}{table}.weight"] for table in ("user_id", "item_id", "user segment"))
        own = {
            "embedding_tower": [
                p[f"{tower}user_id.weight"][row.user_id],
                p[f"{tower}item_id.weight"][row.item_id],
                p[f"{tower}brand.weight"][row.brand],
                plain.mean_of_rows(p[f"{tower}item_id.weight"], row.recent),
            ],
            "interaction_network": [
                users[row.user_id],
                items[row.item_id],
                plain.mean_of_rows(items, row.recent),
                segments[row.segment],
            ],
            "head": [
                p[f"{head}user_id.weight"][row.user_id],
                p[f"{head}item_id.weight"][row.item_id],
                plain.mean_of_rows(p[f"{head}recent.weight"], row.recent),
            ],
        }
        for part, vectors in own.items():
            total = total + strengths.get(part, 0.0) * sum((vector * vector).sum() for vector in vectors)
    return total / len(rows)


def plain_gradients(ranker: nn.Module, strengths: dict[str, float]) -> dict[str, torch.Tensor]:
    parameters = {name: p.detach().double().requires_grad_() for name, p in ranker.named_parameters()}
    (plain.PlainRanker(COMPOSE).loss(parameters, ROWS) + penalty(parameters, ROWS, strengths)).backward()
    return {name: p.grad for name, p in parameters.items()}


@pytest.mark.parametrize("strengths", [STRENGTHS, {"interaction_network": 0.2}], ids=["all parts", "one part"])
def test_every_parameter_gets_the_gradient_of_the_plain_model_with_the_penalty(strengths):
    ranker = small_ranker(MAKE)
    objective = with_table_l2(lambda module, b: binary_cross_entropy_with_logits(module(b), b.label), strengths)
    objective(ranker, batch_of(ROWS)).backward()
    for name, want in plain_gradients(ranker, strengths).items():
        found = ranker.get_parameter(name).grad.double()
        assert (found - want).abs().max() / want.abs().max() < RELATIVE_TOLERANCE, name


def trained(run: SmallRun, strengths: dict[str, float], steps: int = 1) -> SmallRun:
    run.train(steps, with_table_l2(log_loss_objective, strengths))
    return run


def test_gradient_norms_and_so_clipping_see_the_penalty(context):
    ranker = small_ranker(MAKE)
    expected = plain_gradients(ranker, STRENGTHS)
    run = small_run(context, ranker=ranker)
    run.stream = Batches([batch_of(ROWS)])
    (report,) = trained(run, STRENGTHS).reports
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm().item()
    assert report.gradient_norms[WHOLE] == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("mode", [FROZEN_TOWER, TOWER_DENSE])
def test_frozen_tables_are_not_penalised(context, mode):
    without = {part: strength for part, strength in STRENGTHS.items() if part != "embedding_tower"}
    runs = [trained(small_run(context, mode), strengths, steps=3) for strengths in (STRENGTHS, without)]
    assert runs[0].reports[-1].loss == runs[1].reports[-1].loss
    for name, tensor in whole_state(runs[0].ranker).items():
        assert torch.equal(tensor, whole_state(runs[1].ranker)[name]), name


def test_look_ups_begun_ahead_are_penalised_as_well(context):
    runs = [small_run(context) for _ in range(2)]
    prepare = InputAhead(runs[1].ranker)
    for batch in runs[1].stream.batches:
        prepare(batch)()
    runs = [trained(run, STRENGTHS, steps=3) for run in runs]
    for name, tensor in whole_state(runs[0].ranker).items():
        assert torch.equal(tensor, whole_state(runs[1].ranker)[name]), name


def test_where_every_strength_is_0_the_objective_is_the_very_one():
    assert with_table_l2(log_loss_objective, dict.fromkeys(STRENGTHS, 0.0)) is log_loss_objective
    assert with_table_l2(log_loss_objective, build_table_l2(compose_config([]).training)) is log_loss_objective


def test_a_first_order_weight_counts_once_although_a_table_holds_it_four_times():
    training = compose_config(["training.table_l2.head=0.4", "training.table_l2.embedding_tower=0.3"]).training
    ranker, batch = small_ranker(MAKE), batch_of(ROWS)
    with torch.no_grad():
        for table in ranker.head.first_order.ebc.embedding_bags.values():
            table.weight.copy_(table.weight[:, :1].expand(-1, 4).clone())
    tables = ranker.head.first_order.ebc.embedding_bags

    def weight(feature: str, row: int) -> torch.Tensor:
        return tables[f"first_order_{feature}"].weight[row, 0]

    expected = sum(
        weight("user_id", row.user_id) ** 2
        + weight("item_id", row.item_id) ** 2
        + (sum(weight("recent", item) for item in row.recent) / max(1, len(row.recent))) ** 2
        for row in ROWS
    )
    strengths = build_table_l2(training) | {"embedding_tower": 0.0}
    added = with_table_l2(log_loss_objective, strengths)(ranker, batch) - log_loss_objective(ranker, batch)
    assert added.item() == pytest.approx(0.4 * expected.item() / len(ROWS), rel=1e-4)
