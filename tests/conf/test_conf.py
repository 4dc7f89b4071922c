"""Every file of every group of conf/ composes and builds, and nothing that is not there is accepted."""

from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.build import build_ranker, build_rates, build_stages
from recsys.composition.ranker import Ranker
from recsys.config import TwoTowerConfig, config_document, config_from
from recsys.config.compose import CONF, choices, compose_config
from recsys.config.overrides import override
from recsys.errors import UsageError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.towers.tower_spec import TowerSpec

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


def test_a_part_or_one_half_of_it_learns_at_its_share_of_the_rates():
    training = compose_config(["training.learning_rate=0.1", "training.table_learning_rate=1.0"]).training
    shares = {"embedding_tower": 0.5, "embedding_tower_tables": 0.25, "head": 2.0}
    dense, tables = build_rates(training, shares, ("embedding_tower", "interaction_network", "head"))
    assert [dense[part].learning_rate for part in dense] == pytest.approx([0.05, 0.1, 0.2])
    assert [tables[part].learning_rate for part in tables] == pytest.approx(
        [0.25, 1.0, 2.0 * training.first_order_rate_share]
    )


def test_every_training_mode_comes_to_its_last_stage_in_every_data_sets_budget():
    for data in set(choices("data")) - {"table"}:
        for choice in choices("training_mode"):
            config = compose_config([f"data={data}", f"training_mode={choice}"])
            stages = build_stages(
                config.training_mode, batches_per_epoch=100, max_steps=100 * (config.training.epochs or 1)
            )
            assert config.training_mode.name == choice
            assert stages[-1].steps is None


def test_stages_that_use_up_the_budget_are_refused():
    mode = compose_config(["training_mode=staged_tables_first", "training_mode.stages.tower_tables.epochs=2.5"])
    with pytest.raises(UsageError, match="to stage `end_to_end` after 30 steps, and the budget ends after 30"):
        build_stages(mode.training_mode, batches_per_epoch=10, max_steps=30)


def test_an_adapter_changes_no_weight_that_is_drawn_without_it():
    config, contract = compose_config(["training_mode=frozen_adapter"]), tiny_contract()
    spec = TowerSpec.two_tower(contract.schema, width=8, table_dimension=8, hidden_widths=[4])
    plain = first_weights(build_ranker(config.network, config.composition, spec, contract, 0))
    rank = config.training_mode.adapter_rank
    adapted = first_weights(build_ranker(config.network, config.composition, spec, contract, 0, adapter_rank=rank))
    assert {name: adapted[name] for name in plain} == plain
    assert set(adapted) - set(plain) == {"composition.tower_adapter.down.weight", "composition.tower_adapter.up.weight"}


def test_a_config_that_was_recorded_reads_back_equal():
    config = compose_config(["data=online_retail", "tower=title_vectors", "training_mode=staged_top_first"])
    assert config_from(config_document(config)) == config


@pytest.mark.parametrize(
    ("words", "inner"),
    [
        ([], {"name": "parallel", "width": 64, "join": "concat"}),
        (["composition.inner.join=sum"], {"name": "parallel", "width": 64, "join": "sum"}),
        (["composition.inner.name=sequential"], {"name": "sequential"}),
        (["composition.inner={name: star, hidden_widths: [3]}"], {"name": "star", "hidden_widths": [3]}),
    ],
)
def test_an_inner_composition_has_its_own_kinds_knobs_as_its_file_has_them(words: list[str], inner: dict):
    config = compose_config(["composition=epnet", *words])
    found = config_document(config)["composition"]["inner"]
    assert {name: value for name, value in found.items() if name not in ("head_hidden", "inner", "members")} == inner
    assert found["head_hidden"] == []
    assert config_from(config_document(config)) == config


def test_inner_compositions_stand_on_one_another():
    words = ["composition.inner.name=epnet", "composition.inner.inner.join=sum"]
    inner = compose_config(["composition=ppnet", *words]).composition.inner
    assert (inner.name, inner.prior_width) == ("epnet", 8)
    assert (inner.inner.name, inner.inner.join, inner.inner.width) == ("parallel", "sum", 64)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainng.epochs=1"], ["trainng.epochs", "near it: training.epochs"]),
        (["+training.epoch=1"], ["`training.epoch` is no known key"]),
        (["data=nothing"], ["`data=nothing`", "online_retail"]),
        (
            ["composition=epnet", "composition.inner.name=parallell"],
            ["`composition.inner` is", "'parallel', 'conditional'"],
        ),
        (
            ["composition=epnet", "composition.inner.wdth=3"],
            [
                "`composition.inner.wdth` is no known key",
                "composition `parallel` has name, head_hidden, members, width, join",
            ],
        ),
        (["composition=epnet", "composition.inner.width=0"], ["`composition.inner.width` is 0", "greater than 0"]),
        (["composition=epnet", "composition.inner.head_hidden=[3]"], ["behind the outermost composition"]),
        (["composition=epnet", "composition.inner={name: parallel, members: 2}"], ["`composition.members`"]),
        (
            ["composition=epnet", "composition.inner.name=conditional_route"],
            ["give it as `composition.inner.routes=...`"],
        ),
        (["composition.inner.width=3"], ["`composition.inner` is no known key", "`parallel` has name, head_hidden"]),
        (["training.epochs=0"], ["`training.epochs` is 0", "greater than 0"]),
        (["training.learning_rate=fast"], ["`training.learning_rate` is 'fast'", "number"]),
        (["training.learning_rate=nan"], ["`training.learning_rate`", "finite"]),
        (["training.table_precision=bfloat16"], ["`training.table_precision` is 'bfloat16'", "'float32' or 'float16'"]),
        (["data=online_retail", "data.test_start=soon"], ["`data.test_start` is 'soon'"]),
        (["data.name=../elsewhere"], ["`data.name`"]),
        (
            ["network=dot", "network.layers=2"],
            ["no key `network.layers` with network=dot", "`network` has name, field_width"],
        ),
        (
            ["network=dot", "+network.layers=2"],
            ["`network.layers` is no known key", "network `dot` has name, field_width"],
        ),
        (["composition=parallel", "composition.join=null"], ["`composition.join` is None", "'concat', 'sum'"]),
        (["composition.name=mixed"], ["`composition`", "'mixed'", "'sequential', 'parallel', 'conditional'"]),
        (["network=mask_serial", "network.hidden_widths=[]"], ["`network.hidden_widths` is []", "at least 1 item"]),
        (
            ["network=final_mlp", "network.heads=3"],
            ["`network.first_widths` ends with 64, which 3 heads do not divide"],
        ),
        (["data=table"], ["data.schema_path"]),
        (
            ["training_mode=staged_tables_first", "training_mode.stages.frozen_tower=null"],
            ["`frozen_tower` is not the"],
        ),
        (
            [
                "training_mode=staged_tables_first",
                "training_mode.stages.end_to_end={steps: 5}",
            ],
            ["`end_to_end` is the la"],
        ),
        (
            [
                "training_mode=staged_tables_first",
                "+training_mode.stages.tower_dense={steps: 5}",
            ],
            ["has the stages"],
        ),
        (
            ["training_mode=staged_top_first", "training_mode.stages.frozen_tower={steps: 5, patience: 1}"],
            ["steps and patience"],
        ),
        (
            ["training_mode=staged_top_first", "training_mode.stages.frozen_tower.steps=5"],
            ["no key `training_mode.stages"],
        ),
        (
            ["training_mode=end_to_end", "training_mode.stages.frozen_tower={steps: 5}"],
            ["no key `training_mode.stages"],
        ),
        (["training_mode=staged_top_first", "training_mode.stages.frozen_tower.patience=0"], ["patience` is 0"]),
        (
            ["training_mode=frozen_tower", "+training_mode.rates.embedding_tower=0.1"],
            ["`embedding_tower` never learns"],
        ),
        (["training_mode=end_to_end", "training_mode.adapter_rank=4"], ["`adapter_rank` is for a tower"]),
        (["+training_mode.rates.tower=0.1"], ["training_mode.rates.tower"]),
        (["training.table_kernels.head=ssd"], ["`training.table_kernels.head` is 'ssd'", "'uvm_caching'"]),
        (["composition=sequential", "composition.members=4"], ["`composition.members` is 4", "head_hidden=[64]"]),
        (["training.table_cache_share=0"], ["`training.table_cache_share` is 0"]),
        (["ablation.tune.trials=3", "ablation.tune.ranges={}"], ["`ablation.tune.trials` has nothing to tune"]),
        (["ablation.tune.ranges={training.learning_rate: [1, 0.1]}"], ["`training.learning_rate` from 1 to 0.1"]),
        (["ablation.tune.ranges={training.learning_rate: [0, 1]}"], ["greater than 0"]),
        (["ablation.tune.sampler=grid"], ["`ablation.tune.sampler` is 'grid'", "'tpe'"]),
        (["ablation.processes=0"], ["`ablation.processes` is 0"]),
    ],
)
def test_a_wrong_override_is_refused_with_the_key_and_what_is_expected(
    overrides: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["train", "--dry-run", *overrides]) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_a_mapping_of_own_keys_is_replaced_and_not_merged():
    grid = compose_config(["experiment=demo", "ablation.grid={network.hidden_widths: [[64, 32], [8]]}"]).ablation.grid
    assert grid == {"network.hidden_widths": ((64, 32), (8,))}


def test_routes_that_miss_a_segment_are_refused_by_name():
    config = compose_config(["composition=conditional_route", "composition.routes={cold: [interaction_network]}"])
    contract = tiny_contract()
    with pytest.raises(UsageError, match=r"\['cold'\], but the data has \['cold', 'warm'\]"):
        build_ranker(config.network, config.composition, TowerSpec.imported(contract.schema, width=8), contract, 0)


def test_every_path_in_conf_is_relative_so_that_a_clone_works_anywhere():
    for path in CONF.rglob("*.yaml"):
        assert str(Path.home()) not in path.read_text()


def test_a_segment_whose_name_reads_as_a_number_keeps_its_name() -> None:
    rungs = {"under_25": "all", "25_34": "adapter", "35": "frozen", "others": "frozen"}
    config = compose_config(["training_mode=by_segment", override("training_mode.rungs", rungs)])
    assert config.training_mode.rungs == rungs
    routes = {"25_34": ("interaction_network",), "others": ("embedding_tower",)}
    config = compose_config(["composition=conditional_route", override("composition.routes", routes)])
    assert config.composition.routes == routes
