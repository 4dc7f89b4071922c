"""The optimizer contract holds in every mode, says who steps what, and is refused by name once anything breaks it."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv

from recsys.errors import TrainingError
from recsys.sharding.inventory import inventory_of
from recsys.sharding.sharding_plan import sharding_plan
from recsys.sharding.wrap import TableOptimizer, _collections_by_part, wrap_ranker
from recsys.training.modes import apply_training_mode
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers
from recsys.training.optimizer_contract import (
    ParameterContract,
    contract_document,
    contract_summary,
    optimizer_contract,
    shared_parameters,
)
from tests.training.small_run import CONSTANT, PARTS, SmallRun, gated_ranker, small_run

ROWWISE = TableOptimizer("rowwise_adagrad", 0.1)
TABLES = {"embedding_tower": ROWWISE, "interaction_network": ROWWISE, "head": ROWWISE}


def adamw_of(run: SmallRun) -> torch.optim.Optimizer:
    """The run's own dense optimizer, for a fault to be planted in."""
    adamw = run.optimizers._adamw
    assert adamw is not None
    return adamw


def drop_from_its_group(run: SmallRun) -> None:
    for group in adamw_of(run).param_groups:
        group["params"] = [p for p in group["params"] if p is not run.ranker.module.head.output.weight]


def put_into_a_second_group(run: SmallRun) -> None:
    groups = adamw_of(run).param_groups
    groups.append({**groups[0], "params": [run.ranker.module.head.output.weight]})


def put_a_frozen_one_into_a_group(run: SmallRun) -> None:
    adamw_of(run).param_groups[0]["params"].append(run.ranker.module.embedding_tower.user_side[0][0].weight)


def add_a_parameter(run: SmallRun) -> None:
    run.ranker.module.head.temperature = nn.Parameter(torch.ones(1))


def replace_a_frozen_layer(run: SmallRun) -> None:
    """The optimizer keeps hold of a layer that no row passes any more."""
    old = run.ranker.module.head.output
    run.ranker.module.head.output = nn.Linear(old.in_features, 1).requires_grad_(False)


def replace_the_tables(run: SmallRun) -> None:
    run.ranker.module.embedding_tower.ebc = gated_ranker().embedding_tower.ebc


def share_memory(run: SmallRun) -> None:
    segments = run.ranker.module.composition.segments
    segments[1][0].logits.data = segments[0][0].logits.data


def tie_a_frozen_to_a_learning_one(run: SmallRun) -> None:
    run.ranker.module.head.borrowed = run.ranker.module.embedding_tower.user_side[0][0].weight


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (drop_from_its_group, r"`head\.output\.weight` learns, but no optimizer steps it"),
        (put_into_a_second_group, r"`head\.output\.weight` is stepped 2 times, by adamw and adamw"),
        (put_a_frozen_one_into_a_group, r"`embedding_tower\.user_side\.0\.0\.weight` is frozen, but adamw steps it"),
        (add_a_parameter, r"`head\.temperature` learns, but no optimizer steps it.*make the optimizers after it"),
        (replace_a_frozen_layer, r"adamw steps a parameter of shape \(1[, \d]*\) that the model does not have"),
        (replace_the_tables, "The model's tables were replaced after it was wrapped"),
        (
            share_memory,
            r"`composition\.segments\.0\.0\.logits` and `composition\.segments\.1\.0\.logits` are two param",
        ),
        (tie_a_frozen_to_a_learning_one, r"`embedding_tower\.user_side\.0\.0\.weight` and `head\.borrowed` are one"),
    ],
)
def test_a_broken_contract_is_refused_by_the_parameters_name(
    context, fault: Callable[[SmallRun], None], message: str
) -> None:
    run = small_run(context, "frozen_tower")
    run.optimizers.contract()  # holds before the fault

    fault(run)

    with pytest.raises(TrainingError, match=message):
        run.optimizers.contract()


def test_a_parameter_of_two_optimizers_is_refused(context) -> None:
    run = small_run(context)
    second = torch.optim.SGD([run.ranker.module.head.output.bias], lr=0.1)

    with pytest.raises(TrainingError, match=r"`head\.output\.bias` is stepped 2 times, by adamw and sgd"):
        optimizer_contract(run.ranker, {"adamw": adamw_of(run), "sgd": second}, TABLES)


def test_a_fused_table_without_an_optimizer_is_refused_because_its_kernel_learns_all_the_same(context) -> None:
    """A tower that is frozen by `requires_grad`, and sharded without anything attached."""
    ranker = gated_ranker()
    apply_training_mode(ranker, "frozen_tower")
    collections = _collections_by_part(ranker)
    for collection in collections.values():
        for config in collection.embedding_bag_configs():
            config.init_fn = torch.nn.init.zeros_
    wrapped = DistributedModelParallel(
        ranker,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=context.device,
        plan=sharding_plan(collections, {}, {}, context),
        sharders=[EmbeddingBagCollectionSharder()],
        init_data_parallel=False,
    )
    optimizer = torch.optim.AdamW([p for p in inventory_of(wrapped).dense_parameters().values() if p.requires_grad])
    others = dict.fromkeys(("interaction_network", "head"), TableOptimizer("sgd", 0.1))

    with pytest.raises(
        TrainingError, match=r"`embedding_tower\.ebc\.\S+` has no optimizer, yet its kernel learns by exa"
    ):
        optimizer_contract(wrapped, {"adamw": optimizer}, others)


def test_a_table_whose_kernel_learns_by_another_rule_than_declared_is_refused(context) -> None:
    wrapped = wrap_ranker(gated_ranker(), TABLES, context)
    declared = {**TABLES, "interaction_network": TableOptimizer("adagrad", 0.1)}

    with pytest.raises(
        TrainingError, match=r"`interaction_network\.\S+` is to learn by adagrad, but its kernel does so by"
    ):
        RankerOptimizers(wrapped, dict.fromkeys(PARTS, DenseOptimizer(0.1, 0.0)), declared, CONSTANT)


def test_a_parameter_that_two_parts_share_is_stepped_once_and_reported(context) -> None:
    ranker = gated_ranker()
    ranker.head.borrowed = ranker.composition.segments[0][0].logits

    run = small_run(context, ranker=ranker)
    lines = run.optimizers.contract()

    (sentence,) = shared_parameters(lines)
    assert sentence == "`composition.segments.0.0.logits` is also `head.borrowed`: one parameter, stepped once"
    assert sentence in contract_document(lines)
    assert sum(parameter is ranker.head.borrowed for parameter in run.optimizers.dense_parameters) == 1


def test_no_parameter_of_the_projects_own_rankers_has_two_names(context) -> None:
    assert shared_parameters(small_run(context).optimizers.contract()) == []


def test_the_summary_adds_up_what_shares_part_optimizer_rate_and_decay() -> None:
    lines = [
        ParameterContract("embedding_tower", "embedding_tower.t", 2000, True, False, "none", 0.0, 0.0),
        ParameterContract("head", "head.a", 6, False, True, "adamw", 0.001, 0.01),
        ParameterContract("head", "head.b", 1, False, True, "adamw", 0.001, 0.0),
        ParameterContract("head", "head.c", 4, False, True, "adamw", 0.001, 0.01),
    ]

    assert contract_summary(lines) == [
        ("embedding_tower", "1", "2,000", "no", "none", "0", "0"),
        ("head", "2", "10", "yes", "adamw", "0.001", "0.01"),
        ("head", "1", "1", "yes", "adamw", "0.001", "0"),
    ]


def test_the_document_has_a_row_for_every_parameter_and_table(context) -> None:
    lines = small_run(context, "frozen_tower").optimizers.contract()

    rows = contract_document(lines).splitlines()

    for line in lines:
        (row,) = [row for row in rows if row.startswith(f"| `{line.parameter}` |")]
        assert [cell.strip() for cell in row.split("|")[2:5]] == [
            f"{line.elements:,}",
            "yes" if line.is_trainable else "no",
            line.optimizer,
        ]
