"""Which policies a schema may declare for which column, and how one entry stands for a vector's elements."""

from typing import Any

import pytest

from recsys.errors import UsageError
from recsys.features.policy import Policy
from recsys.features.schema import FeatureSchema
from tests.worlds import world_schema


def schema_with(**changed: Any) -> FeatureSchema:
    document = world_schema().to_document()
    document["features"] += changed.pop("features", [])
    return FeatureSchema.from_document({**document, **changed}, "clicks.yaml")


def test_each_column_takes_the_policies_that_can_mend_it():
    declared = {
        "price": "clip", "user_id": "unknown", "item_id": "drop", "recent_item_ids": "clip", "clicked": "drop",
        "clicked_at": "stop",
    }  # fmt: skip

    schema = schema_with(invalid=declared, most_dropped=0.01)

    assert schema.invalid == {column: Policy(word) for column, word in declared.items()}
    assert FeatureSchema.from_document(schema.to_document()) == schema


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"invalid": {"price": "unknown"}}, "`invalid` of `price` is 'unknown'; expected one of stop, clip, drop"),
        ({"invalid": {"user_id": "clip"}}, "`invalid` of `user_id` is 'clip'; expected one of stop, unknown, drop"),
        ({"invalid": {"clicked": "clip"}}, "`invalid` of `clicked` is 'clip'; expected one of stop, drop"),
        ({"invalid": {"cost": "stop"}}, "`invalid` names the column `cost`; expected some of activity, clicked"),
        ({"invalid": "stop"}, "`invalid` is 'stop'; expected columns with a policy each"),
        ({"invalid": {"price": "drop"}}, "`price` may drop rows, and `most_dropped` is 0; expected the share"),
        ({"invalid": {"price": "drop"}, "most_dropped": 1.5}, "`most_dropped` is 1.5; expected the share"),
        ({"most_dropped": 0.1}, "`most_dropped` is 0.1, but no column under `invalid` is set to `drop`"),
    ],
)
def test_what_cannot_mean_anything_is_refused_with_what_could(changed, message):
    with pytest.raises(UsageError, match=r"^clicks\.yaml: ") as raised:
        schema_with(**changed)

    assert message in str(raised.value)


def test_a_schema_that_declares_no_policy_keeps_its_fingerprint():
    assert schema_with(invalid={}).fingerprint == world_schema().fingerprint
    assert "invalid" not in world_schema().to_document()
    assert schema_with(invalid={"price": "clip"}).fingerprint != world_schema().fingerprint


def test_a_vector_of_three_is_three_dense_features_under_one_policy():
    image = {"name": "image", "kind": "dense", "width": 3, "fill": 0, "used_by": ["item_tower"]}

    schema = schema_with(features=[image], invalid={"image": "clip", "price": "stop"})

    assert [feature.name for feature in schema.dense][-3:] == ["image[0]", "image[1]", "image[2]"]
    assert all(schema.feature(f"image[{place}]").fill == 0 for place in range(3))
    assert schema.invalid == {f"image[{place}]": Policy.CLIP for place in range(3)} | {"price": Policy.STOP}
    assert FeatureSchema.from_document(schema.to_document()) == schema


@pytest.mark.parametrize(
    ("kind", "width"), [("dense", 0), ("dense", True), ("dense", "4"), ("sparse", 2), ("sparse_list", 2)]
)
def test_a_width_that_is_none_is_refused(kind, width):
    image = {"name": "image", "kind": kind, "width": width, "used_by": ["item_tower"]}

    with pytest.raises(UsageError, match=f"feature `image`: width is {width!r}; expected a whole number from 1"):
        schema_with(features=[image])
