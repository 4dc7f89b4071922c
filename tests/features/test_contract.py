"""What was fitted travels as text, and things of different contracts are kept apart by name."""

import dataclasses
import json

import pytest

from recsys.errors import DataError
from recsys.features.contract import FeatureContract, Scaling, contract_tags, require_same_contract
from recsys.features.schema import FeatureSchema

SCHEMA = FeatureSchema.from_document(
    {
        "name": "shop",
        "segment": "group",
        "segments": ["new", "heavy"],
        "label": "bought",
        "time": "sold_at",
        "user": "customer",
        "item": "product",
        "features": [
            {"name": "customer", "kind": "sparse", "used_by": ["user_tower"]},
            {"name": "product", "kind": "sparse", "used_by": ["item_tower"]},
            {"name": "price", "kind": "dense", "used_by": ["interaction_network"]},
        ],
    }
)
CONTRACT = FeatureContract(
    schema=SCHEMA,
    table_rows={"customer": 11, "product": 5},
    vocabulary_fingerprints={"customer": "aa", "product": "bb"},
    scaling={"price": Scaling(centre=1 / 3, spread=2.0)},
    extras=("user_key",),
)


def test_contract_reads_back_as_itself_to_the_last_bit() -> None:
    again = FeatureContract.from_json(CONTRACT.to_json())

    assert again == CONTRACT
    assert again.fingerprint == CONTRACT.fingerprint
    assert again.scaling["price"].centre == 1 / 3


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": dataclasses.replace(SCHEMA, name="store")},
        {"table_rows": {"customer": 11, "product": 6}},
        {"vocabulary_fingerprints": {"customer": "aa", "product": "cc"}},
        {"scaling": {"price": Scaling(centre=1 / 3, spread=2.5)}},
        {"extras": ()},
    ],
)
def test_fingerprint_changes_with_everything_that_was_fitted(changes: dict[str, object]) -> None:
    assert dataclasses.replace(CONTRACT, **changes).fingerprint != CONTRACT.fingerprint  # type: ignore[arg-type]


def without(key: str) -> str:
    document = json.loads(CONTRACT.to_json())
    del document[key]
    return json.dumps(document)


def with_value(key: str, value: object) -> str:
    return json.dumps({**json.loads(CONTRACT.to_json()), key: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        CONTRACT.to_json()[:-9],
        "[]",
        "null",
        without("schema"),
        without("scaling"),
        with_value("scaling", []),
        with_value("scaling", {"price": {"centre": 0}}),
        with_value("schema", {"name": "shop"}),
        with_value("extras", ["mood"]),
    ],
)
def test_torn_or_foreign_contract_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(DataError):
        FeatureContract.from_json(text)


def test_refused_contract_says_what_it_is_not_and_what_to_do() -> None:
    expected = r"This is no feature contract \(KeyError: 'scaling'\)\. Expected the `contract.json`.*prepare the data"
    with pytest.raises(DataError, match=expected):
        FeatureContract.from_json(without("scaling"))


def test_thing_of_the_same_contract_is_let_through() -> None:
    require_same_contract(CONTRACT, contract_tags(CONTRACT), "Checkpoint runs/3")


@pytest.mark.parametrize(
    ("changes", "part", "found", "expected"),
    [
        ({"schema": dataclasses.replace(SCHEMA, name="store")}, "schema", None, SCHEMA.fingerprint),
        ({"vocabulary_fingerprints": {"customer": "aa", "product": "cc"}}, "vocabulary of table `product`", "cc", "bb"),
        ({"vocabulary_fingerprints": {"customer": "aa"}}, "vocabulary of table `product`", "(none)", "bb"),
        ({"scaling": {}}, "scaling", None, None),
    ],
)
def test_thing_of_another_contract_is_refused_by_the_part_that_differs(
    changes: dict[str, object], part: str, found: str | None, expected: str | None
) -> None:
    other = dataclasses.replace(CONTRACT, **changes)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        require_same_contract(CONTRACT, contract_tags(other), "Checkpoint runs/3")

    message = str(caught.value)
    assert message.startswith(f"Checkpoint runs/3 was made with {part} {found or ''}")
    assert f"but this data has {part} {expected or ''}" in message
    assert "Make it again from this data, or use the data that it was made with." in message
