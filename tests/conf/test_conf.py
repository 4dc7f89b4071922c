"""Every file of every group of conf/ composes and builds, and nothing that is not there is accepted."""

from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.compose import CONF, choices, compose_config
from recsys.build import build_ranker, build_rates
from recsys.composition.ranker import Ranker
from recsys.config import TwoTowerConfig, config_document, config_from
from recsys.errors import UsageError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.towers.embedding import TowerSpec

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
# What the user must say where a file leaves a blank.
BLANKS = {
    "data=table": ["data.schema_path=my.yaml", "data.raw=my"],
    "composition=conditional_route": [
        "composition.routes={cold: [interaction_network], warm: [embedding_tower, interaction_network]}"
    ],
}


def tiny_contract() -> FeatureContract:
    """Two ids, one list, two dense columns, two segments."""
    schema = FeatureSchema.from_document(
        {
            "name": "tiny",
            "features": [
                {"name": "user", "kind": "sparse", "used_by": ["user_tower", "interaction_network"]},
                {"name": "item", "kind": "sparse", "used_by": ["item_tower", "interaction_network"]},
                {"name": "seen", "kind": "sparse_list", "table": "item", "max_length": 3, "used_by": ["user_tower"]},
                {"name": "price", "kind": "dense", "used_by": ["item_tower", "interaction_network"]},
                {"name": "age", "kind": "dense", "used_by": ["user_tower"]},
            ],
            "segment": "group",
            "segments": ["cold", "warm"],
            "label": "clicked",
            "time": "at",
            "user": "user",
            "item": "item",
        }
    )
    return FeatureContract(schema, {"user": 5, "item": 7}, {"user": "u", "item": "i"}, {})


def every_choice() -> list[str]:
    return [f"{group}={choice}" for group in GROUPS for choice in choices(group)]


@pytest.mark.parametrize("choice", every_choice())
def test_every_choice_of_every_group_composes_and_its_ranker_builds(choice: str):
    config = compose_config([choice, *BLANKS.get(choice, [])])
    contract = tiny_contract()
    spec = TowerSpec.imported(contract.schema, width=8)
    if isinstance(config.tower, TwoTowerConfig):
        spec = TowerSpec.two_tower(contract.schema, width=8, table_dimension=8, hidden_widths=[4])
    ranker = build_ranker(config.network, config.composition, spec, contract, seed=0)
    assert [name for name, _ in ranker.named_children()] == [
        "embedding_tower",
        "interaction_network",
        "composition",
        "head",
    ]


def first_weights(ranker: Ranker) -> dict[str, list]:
    return {name: value.flatten().tolist() for name, value in ranker.named_parameters()}


def test_two_rankers_of_one_seed_start_equal_and_the_next_seed_starts_elsewhere():
    config, contract = compose_config([]), tiny_contract()
    spec = TowerSpec.two_tower(contract.schema, width=8, table_dimension=8, hidden_widths=[4])
    one, same, other = (
        first_weights(build_ranker(config.network, config.composition, spec, contract, seed)) for seed in (0, 0, 1)
    )
    assert one == same
    assert one["interaction_network.deep.layers.0.weight"] != other["interaction_network.deep.layers.0.weight"]


def test_one_seed_gives_every_composition_the_same_interaction_network():
    contract = tiny_contract()
    spec = TowerSpec.two_tower(contract.schema, width=8, table_dimension=8, hidden_widths=[4])
    parallel, conditional = (
        first_weights(build_ranker(config.network, config.composition, spec, contract, 3))
        for config in (compose_config(["composition=parallel"]), compose_config(["composition=conditional"]))
    )
    names = [name for name in parallel if name.startswith(("interaction_network.", "embedding_tower."))]
    assert names
    assert all(parallel[name] == conditional[name] for name in names)


def test_a_frozen_part_has_no_rates_and_a_learning_tower_a_share_of_them():
    training = compose_config(["training.learning_rate=0.1", "training.tower_rate_share=0.5"]).training
    dense, tables = build_rates(training, ("embedding_tower", "head"), frozen=())
    assert dense["embedding_tower"].learning_rate == pytest.approx(0.05)
    assert dense["head"].learning_rate == pytest.approx(0.1)
    dense, tables = build_rates(training, ("embedding_tower", "head"), frozen=("embedding_tower",))
    assert dense["embedding_tower"] is None
    assert tables["embedding_tower"] is None


def test_a_config_that_was_recorded_reads_back_equal():
    config = compose_config(["data=online_retail", "tower=title_vectors", "composition=conditional"])
    assert config_from(config_document(config)) == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainng.epochs=1"], ["trainng.epochs", "near it: training.epochs"]),
        (["+training.epoch=1"], ["`training.epoch` is no known key"]),
        (["data=nothing"], ["`data=nothing`", "online_retail"]),
        (["training.epochs=0"], ["`training.epochs` is 0", "greater than 0"]),
        (["training.learning_rate=fast"], ["`training.learning_rate` is 'fast'", "number"]),
        (["training.learning_rate=nan"], ["`training.learning_rate`", "finite"]),
        (["data=online_retail", "data.test_start=soon"], ["`data.test_start` is 'soon'"]),
        (["data.name=../elsewhere"], ["`data.name`"]),
        (["network=cross", "network.rank=4"], ["network `cross` has no `rank`"]),
        (["composition=parallel", "composition.join=null"], ["composition `parallel` needs `join`"]),
        (["+data._target_=builtins.open"], ["`data._target_` is no known key"]),
        (["data=table"], ["data.schema_path"]),
    ],
)
def test_a_wrong_override_is_refused_with_the_key_and_what_is_expected(
    overrides: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["train", "--dry-run", *overrides]) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_routes_that_miss_a_segment_are_refused_by_name():
    config = compose_config(["composition=conditional_route", "composition.routes={cold: [interaction_network]}"])
    contract = tiny_contract()
    with pytest.raises(UsageError, match=r"\['cold'\], but the data has \['cold', 'warm'\]"):
        build_ranker(config.network, config.composition, TowerSpec.imported(contract.schema, width=8), contract, 0)


def test_every_path_in_conf_is_relative_so_that_a_clone_works_anywhere():
    for path in CONF.rglob("*.yaml"):
        assert str(Path.home()) not in path.read_text()
