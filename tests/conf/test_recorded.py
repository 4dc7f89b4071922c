"""Documents of earlier versions read as the same ranker."""

from typing import Any

import pytest

from recsys.build import describe_ranker, rebuild_ranker
from recsys.config import TableData, config_document, config_from, recorded, with_own_knobs
from recsys.config.compose import compose_config
from recsys.errors import UsageError
from tests.small_model import small_contract, two_tower_spec

# Every kind had the knobs of all.
NETWORK = {"layers": None, "rank": None, "mask_ratio": None}
COMPOSITION = {"width": None, "join": None, "routing": None, "routes": None, "expert_hidden": None}
ROUTES = (
    "composition.routes={new: [interaction_network], light: [embedding_tower], heavy: "
    "[embedding_tower, interaction_network]}"
)


def of_old(document: dict[str, Any], **composition: Any) -> dict[str, Any]:
    """The document as it was recorded when kinds shared their knobs."""
    return document | {
        "network": NETWORK | document["network"],
        "composition": COMPOSITION | document["composition"] | composition,
    }


@pytest.mark.parametrize(
    ("words", "old"),
    [
        (["network=dot", "composition=sequential"], {}),
        (["network=mask_serial", "composition=parallel"], {}),
        (["composition=conditional", "composition.expert_hidden=null"], {"routing": "gate"}),
        (["composition=conditional_route", ROUTES], {"name": "conditional", "routing": "route"}),
        (["network=cross_low_rank", "composition=parallel_conditional"], {}),
    ],
)
def test_a_document_with_a_null_for_every_other_kinds_knob_reads_as_the_same(words: list[str], old: dict) -> None:
    config = compose_config(words)
    assert config_from(with_own_knobs(of_old(config_document(config), **old))) == config

    description = describe_ranker(config.network, config.composition, two_tower_spec())
    again = rebuild_ranker(of_old(description, **old), small_contract())
    assert list(again.state_dict()) == list(rebuild_ranker(description, small_contract()).state_dict())


def test_ids_without_a_vector_had_the_mean_of_the_others_before_there_was_a_choice() -> None:
    config = compose_config(["tower=title_vectors"])
    document = config_document(config)
    assert document["tower"].pop("missing_vectors") == "mean"

    assert config_from(with_own_knobs(document)) == config


@pytest.mark.parametrize("group", sorted(recorded._CAME_LATER))
def test_a_run_of_before_a_setting_has_the_value_of_what_was_done_then(group: str) -> None:
    config = compose_config([])
    document = config_document(config)
    document[group] = {key: value for key, value in document[group].items() if key not in recorded._CAME_LATER[group]}
    assert config_from(with_own_knobs(document)) == config


def test_a_run_of_before_tables_were_planned_reads_with_the_groups_that_it_lacks() -> None:
    config = compose_config([])
    document = config_document(config)
    del document["sharding"], document["cluster"]
    assert config_from(with_own_knobs(document)) == config


def test_a_served_model_of_before_the_first_order_path_has_none() -> None:
    config = compose_config([])
    description = describe_ranker(config.network, config.composition, two_tower_spec())
    del description["network"]["first_order"]
    assert rebuild_ranker(description, small_contract()).head.first_order is None


def test_a_served_model_of_before_members_and_thresholds_has_neither() -> None:
    config = compose_config([])
    description = describe_ranker(config.network, config.composition, two_tower_spec())
    now = rebuild_ranker(description, small_contract())
    del description["composition"]["members"], description["is_ordinal"]
    assert list(rebuild_ranker(description, small_contract()).state_dict()) == list(now.state_dict())


def test_a_value_that_the_kind_has_no_knob_for_is_still_refused() -> None:
    document = config_document(compose_config(["network=dot"]))
    with pytest.raises(UsageError, match="network `dot` has name, field_width"):
        config_from(with_own_knobs(document | {"network": document["network"] | {"layers": 2}}))


DATES = {name: f"2011-0{month}-01" for month, name in enumerate(("train_start", "validation_start"), start=3)} | {
    "test_start": "2011-08-15",
    "test_end": "2011-10-01",
}
SAMPLING = {"negatives_per_positive": 4, "ranking_validation_invoices": 300, "seed": 0}


@pytest.mark.parametrize(
    ("name", "old"),
    [("online_retail", {**DATES, **SAMPLING, "ranking_baselines": {"popular": ["item_sold_90d"]}}), ("movielens", {})],
)
def test_data_that_were_a_source_of_their_own_read_as_a_table(name: str, old: dict[str, Any]) -> None:
    config = compose_config([f"data={name}"])
    recorded = {"source": name, "name": name, "schema_path": f"data/schemas/{name}.yaml", "raw": "raw", **old}

    data = config_from(with_own_knobs(config_document(config) | {"data": recorded})).data

    assert isinstance(data, TableData)
    assert data.test_start == old.get("test_start")
    assert data.ranking_baselines == ({"popular": ("item_sold_90d",)} if old else {})


def test_a_table_that_was_recorded_without_dates_has_those_of_its_schema() -> None:
    config = compose_config(["data=ml_100k"])
    document = config_document(config)
    recorded = {key: document["data"][key] for key in ("source", "name", "schema_path", "raw")}

    assert config_from(with_own_knobs(document | {"data": recorded})) == config


def test_rows_that_were_sampled_otherwise_are_not_taken_for_those_of_the_schema() -> None:
    recorded = {"source": "online_retail", "name": "shop", "schema_path": "s.yaml", "raw": "raw", **DATES, **SAMPLING}
    document = config_document(compose_config(["data=online_retail"])) | {"data": recorded | {"seed": 7}}

    with pytest.raises(UsageError, match=r"recorded with data.seed=7, which stands in the schema file now .* as 0"):
        with_own_knobs(document)
