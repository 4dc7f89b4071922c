"""What a schema may declare, and what is said when it declares something else."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import UsageError
from recsys.features.schema import (
    INTERACTION_NETWORK,
    ITEM_TOWER,
    USER_TOWER,
    FeatureKind,
    FeatureSchema,
    Holds,
    Scale,
    load_schema,
)

SHOP: dict[str, Any] = {
    "name": "shop",
    "segment": "group",
    "segments": ["new", "heavy"],
    "label": "bought",
    "time": "sold_at",
    "user": "customer",
    "item": "product",
    "features": [
        {"name": "customer", "kind": "sparse", "used_by": ["user_tower"]},
        {"name": "product", "kind": "sparse", "used_by": ["item_tower", "interaction_network"]},
        {
            "name": "last_products",
            "kind": "sparse_list",
            "table": "product",
            "max_length": 5,
            "used_by": ["user_tower"],
        },
        {"name": "price", "kind": "dense", "minimum": 0, "fill": 1, "scale": "log", "used_by": ["interaction_network"]},
    ],
}
CUSTOMER, PRODUCT, LAST_PRODUCTS, PRICE = range(4)


def shop(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SHOP), **changes}


def shop_with(feature: int, **changes: Any) -> dict[str, Any]:
    document = shop()
    document["features"][feature] |= changes
    return document


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        FeatureSchema.from_document(document, "shop.yaml")
    message = str(caught.value)
    assert message.startswith("shop.yaml"), "the message begins with where"
    return message


def test_features_are_sorted_into_kinds_parts_and_tables_in_declared_order() -> None:
    schema = FeatureSchema.from_document(SHOP)

    assert [feature.name for feature in schema.dense] == ["price"]
    assert [feature.name for feature in schema.sparse] == ["customer", "product", "last_products"]
    assert {table: [f.name for f in users] for table, users in schema.tables.items()} == {
        "customer": ["customer"],
        "product": ["product", "last_products"],
    }
    assert [feature.name for feature in schema.used_by(USER_TOWER)] == ["customer", "last_products"]
    assert [feature.name for feature in schema.used_by(ITEM_TOWER)] == ["product"]
    assert [feature.name for feature in schema.used_by(INTERACTION_NETWORK)] == ["product", "price"]


def test_declared_values_and_defaults_reach_the_features() -> None:
    schema = FeatureSchema.from_document(SHOP)
    price, product, history = schema.feature("price"), schema.feature("product"), schema.feature("last_products")

    assert (price.kind, price.minimum, price.maximum, price.fill, price.scale) == (
        FeatureKind.DENSE,
        0.0,
        float("inf"),
        1.0,
        Scale.LOG,
    )
    assert (product.table, product.max_length) == ("product", 0)
    assert (history.table, history.max_length) == ("product", 5)
    assert schema.weight is None
    with pytest.raises(KeyError, match="postcode"):
        schema.feature("postcode")


def test_written_schema_reads_back_as_itself_even_through_json() -> None:
    schema = FeatureSchema.from_document(shop(weight="importance"))
    again = FeatureSchema.from_document(json.loads(json.dumps(schema.to_document())))

    assert again == schema
    assert again.fingerprint == schema.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        shop(name="store"),
        shop(segments=["heavy", "new"]),
        shop(label="clicked"),
        shop(weight="importance"),
        shop(features=[*reversed(SHOP["features"])]),
        shop_with(PRICE, fill=2),
        shop_with(PRICE, minimum=-1),
        shop_with(PRICE, maximum=100),
        shop_with(PRICE, scale="standard"),
        shop_with(PRICE, used_by=["item_tower"]),
        shop_with(LAST_PRODUCTS, max_length=6),
        shop_with(LAST_PRODUCTS, table="last_products"),
    ],
)
def test_fingerprint_changes_with_every_declared_value(changed: dict[str, Any]) -> None:
    assert FeatureSchema.from_document(changed).fingerprint != FeatureSchema.from_document(SHOP).fingerprint


def test_fingerprint_is_the_same_for_the_same_number_written_otherwise() -> None:
    whole, fraction = FeatureSchema.from_document(SHOP), FeatureSchema.from_document(shop_with(PRICE, minimum=0.0))
    assert whole.fingerprint == fraction.fingerprint


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (shop(labels="bought"), "unknown key `labels` (did you mean `label`?); expected some of name"),
        (shop(features=[]), "`features` is []; expected a list with at least one feature"),
        (shop(features="customer"), "`features` is 'customer'; expected a list"),
        (shop(features=["customer"]), "a feature is 'customer'; expected keys such as `name:` and `kind:`"),
        (shop(segments="new"), "`segments` is 'new'; expected a list of at least one name"),
        (shop(segments=[]), "`segments` is []; expected a list of at least one name"),
        (
            shop(segments=["yes", True]),
            "`segments` is ['yes', True]; expected a list of at least one name. Put ",
        ),
        (shop(segments=["new", "heavy", "new"]), "the segment `new` stands twice"),
        (shop(label=None), "`label` is None; expected a name"),
        (shop(label=7), "`label` is 7; expected a name"),
        (shop(weight=0), "`weight` is 0; expected a name"),
        (shop(label="sold_at"), "must be different columns, and they are group, sold_at, sold_at"),
        (shop(label="price"), "the label `price` is declared as a feature, which would leak the answer"),
        (shop(user="price"), "`user: price` must name a feature of kind sparse"),
        (shop(item="last_products"), "`item: last_products` must name a feature of kind sparse"),
        (shop(user="client"), "`user: client` must name a feature of kind sparse"),
        (shop(user="product"), "`user` and `item` are both `product`; expected two features"),
        (shop_with(PRICE, name="customer"), "the feature `customer` is declared twice"),
        (shop_with(PRICE, name="label"), "a feature is named `label`, which encoded rows use"),
        (shop_with(PRICE, name="user_key"), "a feature is named `user_key`, which encoded rows use"),
        (shop_with(PRICE, name="Label"), "a feature is named `Label`, which encoded rows use"),
        (shop_with(PRICE, name="user segment"), "a feature is named `user segment`, which encoded rows use"),
        (shop_with(PRICE, name="recsys.history_row"), "`recsys.history_row` begins with `recsys.`"),
        (shop_with(PRICE, name="Customer"), "`customer` and `Customer` differ in small and large letters alone"),
        (shop_with(PRICE, name="sold_at"), "the time `sold_at` is declared as a feature as well"),
        (shop_with(PRICE, name="group"), "`group` is the segment and a feature of kind dense"),
        (shop(label="SPLIT"), "`label` is named `SPLIT`, which prepared rows use"),
        (shop(time="day"), "`time` is named `day`, which prepared rows use"),
        (shop(weight="product"), "`product` is the weight and a feature of kind sparse"),
        (shop(label="Group"), "`group` and `Group` differ in small and large letters alone"),
        (shop(user="custommer"), "must name a feature of kind sparse (did you mean `customer`?)"),
        (shop(invalid={"prise": "clip"}), "the column `prise` (did you mean `price`?)"),
        (shop(invalid={"price": "clipp"}), "`price` is 'clipp' (did you mean `clip`?)"),
        (shop_with(PRICE, name=""), "a feature: `name` is ''; expected a name"),
        (shop_with(PRICE, name=5), "a feature: `name` is 5; expected a name"),
    ],
)
def test_wrong_declaration_is_said_with_what_was_found_and_expected(document: dict[str, Any], said: str) -> None:
    assert said in refusal(document)


@pytest.mark.parametrize("key", ["name", "features", "segment", "segments", "label", "time", "user", "item"])
def test_missing_key_is_named(key: str) -> None:
    document = shop()
    del document[key]
    assert f"the key `{key}` is missing; it has no default" in refusal(document)


@pytest.mark.parametrize(
    ("feature", "changes", "said"),
    [
        (PRICE, {"kin": "dense"}, "unknown key `kin` (did you mean `kind`?); expected some of name, kind, used_by"),
        (PRICE, {"kind": "numeric"}, "`kind` is 'numeric'; expected one of dense, sparse, sparse_list"),
        (PRICE, {"kind": ["dense"]}, "`kind` is ['dense']; expected one of"),
        (PRICE, {"scale": "robust"}, "`scale` is 'robust'; expected one of standard, log, none"),
        (PRICE, {"scale": None}, "`scale` is None; expected one of standard, log, none"),
        (
            PRICE,
            {"used_by": "user_tower"},
            "`used_by` is 'user_tower'; expected a list of some of user_tower, ",
        ),
        (PRICE, {"used_by": []}, "`used_by` is []; expected a list"),
        (PRICE, {"used_by": ["towers"]}, "`used_by` is ['towers'] (did you mean `user_tower`?); expected a list"),
        (PRICE, {"used_by": [{"part": "user_tower"}]}, "`used_by` is [{'part': 'user_tower'}]; expected a list"),
        (PRICE, {"minimum": "zero"}, "`minimum` is 'zero'; expected a finite number"),
        (PRICE, {"maximum": True}, "`maximum` is True; expected a finite number"),
        (PRICE, {"fill": float("nan")}, "`fill` is nan; expected a finite number"),
        (PRICE, {"maximum": float("inf")}, "`maximum` is inf; expected a finite number, or no such key"),
        (PRICE, {"maximum": 10**400}, "`maximum` is 1000"),
        (PRICE, {"minimum": 3, "maximum": 2}, "minimum 3 is above maximum 2"),
        (PRICE, {"fill": -1}, "`fill` is -1; expected a value from 0 to inf, as declared"),
        (PRICE, {"table": "prices"}, "`table` belongs to sparse features, and this one is dense"),
        (
            PRICE,
            {"max_length": 3},
            "`max_length` is 3; expected a whole number from 1 for a list, and no such key for other",
        ),
        (PRODUCT, {"fill": 0}, "`fill` belongs to dense features, and this one is sparse"),
        (PRODUCT, {"scale": "log"}, "`scale` belongs to dense features, and this one is sparse"),
        (LAST_PRODUCTS, {"minimum": 0}, "`minimum` belongs to dense features, and this one is sparse_list"),
        (PRODUCT, {"max_length": 3}, "`max_length` is 3; expected a whole number from 1 for a list"),
        (LAST_PRODUCTS, {"max_length": 0}, "`max_length` is 0; expected a whole number from 1 for a list"),
        (LAST_PRODUCTS, {"max_length": -1}, "`max_length` is -1; expected a whole number"),
        (LAST_PRODUCTS, {"max_length": 2.5}, "`max_length` is 2.5; expected a whole number"),
        (LAST_PRODUCTS, {"max_length": True}, "`max_length` is True; expected a whole number"),
        (LAST_PRODUCTS, {"max_length": "ten"}, "`max_length` is 'ten'; expected a whole number"),
    ],
)
def test_wrong_feature_is_said_under_its_name(feature: int, changes: dict[str, Any], said: str) -> None:
    message = refusal(shop_with(feature, **changes))
    assert f"feature `{SHOP['features'][feature]['name']}`" in message
    assert said in message


RATINGS = {"name": "ratings", "kind": "dense_list", "beside": "last_products", "fill": 0, "used_by": ["user_tower"]}
SHOPS = {"name": "shops", "kind": "sparse_list", "beside": "last_products", "used_by": ["user_tower"]}


def test_lists_beside_another_one_are_found_in_declared_order_and_are_as_long() -> None:
    ages = {**RATINGS, "name": "ages", "holds": "age_days", "max_length": 5}
    schema = FeatureSchema.from_document(shop(features=[ages, *SHOP["features"], RATINGS, SHOPS]))

    assert [feature.name for feature in schema.dense_lists] == ["ages", "ratings"]
    assert [feature.name for feature in schema.beside("last_products")] == ["ages", "ratings", "shops"]
    assert schema.beside("shops") == ()
    assert schema.grouped_lists == ("ages", "last_products", "ratings", "shops")
    assert [feature.name for feature in schema.sparse] == ["customer", "product", "last_products", "shops"]
    assert {feature.max_length for feature in schema.features if feature.is_list} == {5}
    assert (schema.feature("ratings").scale, schema.feature("ages").holds) == (Scale.NONE, Holds.AGE_DAYS)
    assert FeatureSchema.from_document(json.loads(json.dumps(schema.to_document()))) == schema


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {**RATINGS, "beside": "last_product"},
            "`beside` is 'last_product'; expected a sparse_list that is itself bes",
        ),
        ({**RATINGS, "beside": "last_product"}, "(did you mean `last_products`?)"),
        ({**RATINGS, "beside": "product"}, "`beside` is 'product'; expected a sparse_list"),
        ({**RATINGS, "beside": "ratings"}, "`beside` is 'ratings'; expected a sparse_list that is itself beside none"),
        ({**RATINGS, "beside": "shops"}, "`beside` is 'shops'; expected a sparse_list that is itself beside none"),
        ({**RATINGS, "beside": ""}, "has no `beside`; expected the sparse_list whose elements its numbers are of"),
        ({**RATINGS, "beside": 3}, "`beside` is 3; expected the name of a sparse_list"),
        ({**RATINGS, "max_length": 4}, "`max_length` is 4, and that of `last_products`, which it is beside, is 5"),
        ({**RATINGS, "scale": "standard"}, "has `scale: standard`; expected log or none"),
        (
            {**RATINGS, "used_by": ["interaction_network"]},
            "is used by interaction_network; expected user_tower or item",
        ),
        ({**RATINGS, "used_by": ["item_tower"]}, "is used by item_tower, which does not use `last_products`"),
        ({**RATINGS, "holds": "age"}, "`holds` is 'age'"),
        ({**RATINGS, "table": "product"}, "`table` belongs to sparse features, and this one is dense_list"),
        ({**RATINGS, "fill": 9, "maximum": 5}, "`fill` is 9; expected a value from -inf to 5"),
        ({**SHOPS, "holds": "age_days"}, "`holds` belongs to a dense_list, and this one is sparse_list"),
        ({**SHOPS, "name": "price", "kind": "dense"}, "`beside` belongs to lists, and this one is dense"),
    ],
)
def test_a_list_that_cannot_stand_where_it_is_declared_is_refused(entry: dict[str, Any], said: str) -> None:
    features = [feature for feature in SHOP["features"] if feature["name"] != entry["name"]]
    others = [SHOPS] if entry["name"] == "ratings" else []

    message = refusal(shop(features=[*features, *others, entry]))

    assert f"feature `{entry['name']}`" in message
    assert said in message


@pytest.mark.parametrize("key", ["name", "kind", "used_by"])
def test_missing_key_of_a_feature_is_named(key: str) -> None:
    document = shop()
    del document["features"][PRICE][key]
    assert f"the key `{key}` is missing" in refusal(document)


@pytest.mark.parametrize("table", ["../other", "/etc/passwd", "a/b", "a.b", "a\x00b", "a b", ".."])
def test_table_name_that_could_leave_its_folder_is_refused(table: str) -> None:
    message = refusal(shop_with(PRODUCT, table=table))
    assert "its embedding table is named" in message
    assert "Give the feature such a name under `table:`" in message


def test_feature_keeps_a_name_of_any_letters_where_its_table_has_a_plain_one() -> None:
    document = shop_with(PRODUCT, name='café "Ω" a/b 🛒 商品', table="product")
    schema = FeatureSchema.from_document({**document, "item": 'café "Ω" a/b 🛒 商品'})
    again = FeatureSchema.from_document(json.loads(json.dumps(schema.to_document())))
    assert again.sparse[1].name == 'café "Ω" a/b 🛒 商品'


def test_schema_file_reads_as_declared_and_leaves_the_table_block_to_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump({**SHOP, "table": {"files": ["sales.csv"]}}, allow_unicode=True))

    assert load_schema(path) == FeatureSchema.from_document(SHOP)


def test_schema_made_in_python_may_use_tuples_and_the_enumerations_and_is_the_same() -> None:
    entries = tuple(
        {**entry, "kind": FeatureKind(entry["kind"]), "used_by": tuple(entry["used_by"])} for entry in SHOP["features"]
    )
    made = FeatureSchema.from_document({**SHOP, "segments": ("new", "heavy"), "features": entries, "table": {}})

    assert made == FeatureSchema.from_document(SHOP)
    assert made.fingerprint == FeatureSchema.from_document(SHOP).fingerprint


def test_segments_without_an_order_are_refused() -> None:
    assert "`segments` is {'new'}; expected a list of at least one name" in refusal(shop(segments={"new"}))


def test_every_schema_of_the_repository_loads() -> None:
    folder = Path(__file__).parents[2] / "data" / "schemas"
    paths = sorted(folder.glob("*.yaml"))
    assert paths
    for path in paths:
        assert load_schema(path).features


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def assert_accepted_or_refused_in_words(document: dict[str, Any]) -> None:
    refused, schema = "", None
    try:
        schema = FeatureSchema.from_document(document, "shop.yaml")
    except UsageError as error:
        refused = str(error)
    assert len(refused) < 1000
    assert schema is None or FeatureSchema.from_document(schema.to_document()) == schema


@given(key=st.sampled_from([*SHOP, "weight"]), value=PLAIN)
def test_any_plain_value_under_any_key_is_accepted_or_refused_in_words(key: str, value: Any) -> None:
    assert_accepted_or_refused_in_words({**SHOP, key: value})


@given(
    feature=st.sampled_from([PRODUCT, LAST_PRODUCTS, PRICE]),
    key=st.sampled_from(["name", "kind", "used_by", "table", "max_length", "minimum", "maximum", "fill", "scale"]),
    value=PLAIN,
)
def test_any_plain_value_in_any_feature_is_accepted_or_refused_in_words(feature: int, key: str, value: Any) -> None:
    assert_accepted_or_refused_in_words(shop_with(feature, **{key: value}))
