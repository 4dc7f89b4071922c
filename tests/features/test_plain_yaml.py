"""A schema file is plain data: what cannot be meant is refused with what it is, and what is written reads back."""

import datetime
from pathlib import Path

import pytest

from recsys.datasets.table_layout import load_table_layout
from recsys.errors import UsageError
from recsys.features.plain_yaml import MAXIMUM_BYTES, plain_yaml, read_plain_yaml
from recsys.features.policy import Policy
from recsys.features.schema import load_schema


def refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UsageError) as caught:
        load_schema(path)
    message = str(caught.value)
    assert f"Schema file {path}" in message
    return message


def test_file_too_large_to_be_a_declaration_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    with path.open("wb") as stream:
        stream.truncate(1 << 33)
    with pytest.raises(UsageError, match=r"has 8,589,934,592 bytes; a declaration has at most 1,048,576"):
        read_plain_yaml(path, "Schema file")
    assert MAXIMUM_BYTES == 1_048_576


def test_deep_nesting_is_refused_in_words(tmp_path: Path) -> None:
    assert "nests its values too deeply" in refusal(tmp_path / "shop.yaml", "features: " + "[" * 20_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds a NoneType; expected keys such as `name: shop`"),
        ("- name: shop", "holds a list; expected keys"),
        ("just words", "holds a str; expected keys"),
        ("name: [shop", "cannot be read: while parsing a flow sequence"),
        ("name: shop\nname: store\n", "the key `name` stands twice"),
        ("features:\n  - {name: a, kind: dense, kind: sparse}\n", "the key `kind` stands twice"),
        (b"name: \xff\xfe\xfa", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("name: \x00", "cannot be read"),
        ("time: 2011-99-99", "cannot be read: month must be in 1..12"),
        ("1: 2", "unknown key `1`"),
    ],
)
def test_what_is_no_set_of_keys_is_refused_with_what_it_is(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path / "shop.yaml", text)


@pytest.mark.parametrize(("name", "said"), [("absent.yaml", "does not exist, as seen from"), (".", "cannot be read")])
def test_missing_file_is_named_with_where_examples_stand(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=rf"{said}.*`data/schemas/`") as refused:
        load_schema(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def test_a_document_made_in_python_reads_back_as_itself(tmp_path: Path) -> None:
    used_by = ("user_tower",)
    document = {
        "name": Policy.CLIP,
        "segments": ("café: x", "no", "1"),
        "missing": {True: "yes", 1.5: None, "a": datetime.date(2011, 7, 1)},
        "features": [{"used_by": used_by}, {"used_by": used_by}],
    }
    path = tmp_path / "shop.yaml"
    path.write_text(plain_yaml(document), encoding="utf-8")

    assert read_plain_yaml(path, "Schema file") == {
        "name": "clip",
        "segments": ["café: x", "no", "1"],
        "missing": {True: "yes", 1.5: None, "a": datetime.date(2011, 7, 1)},
        "features": [{"used_by": ["user_tower"]}, {"used_by": ["user_tower"]}],
    }


SHOP = """\
name: shop
features:
  - {name: shopper, kind: sparse, used_by: [user_tower]}
  - {name: product, kind: sparse, used_by: [item_tower]}
  - name: price
    kind: dense
    used_by: [item_tower, interaction_network]
    minimum: 0
  - {name: image, kind: dense, width: 2, used_by: [item_tower]}
segment: group
segments: [new, old]
label: bought
time: at
user: shopper
item: product
invalid:
  price: clip
table:
  files: "*.csv"
  # A comment, which is a line as well.
  label: bought
  time:
    column: at
    unit: timestamp
  segment:
    column: group
    names: {n: new, o: old}
  splits:
    validation_start: 2011-07-01
    test_start: 2011-08-01
  columns:
    price: net.price
"""


def test_the_shop_of_the_next_tests_can_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP, encoding="utf-8")
    assert load_table_layout(path, load_schema(path)).columns == {"price": "net.price"}


@pytest.mark.parametrize(
    ("found", "instead", "said"),
    [
        ("name: shop\n", "nam: shop\n", "line 1: unknown key `nam`"),
        ("kind: dense\n", "kind: dens\n", "line 6, feature `price`: `kind` is 'dens' (did you mean `dense`?)"),
        ("interaction_network]", "network]", "line 7, feature `price`: `used_by` is ['item_tower', 'network']"),
        ("minimum: 0", "minimum: 0\n    maximum: -1", "line 5, feature `price`: minimum 0 is above maximum -1"),
        ("minimum: 0", "fill: -1\n    minimum: 0", "line 8, feature `price`: `fill` is -1; expected a value from 0"),
        ("    kind: dense\n", "", "line 5, feature `price`: the key `kind` is missing"),
        ("width: 2, used_by: [item_tower]", "width: 2, used_by: []", "line 9, feature `image[0]`: `used_by` is []"),
        ("width: 2", "width: 0", "line 9, feature `image`: width is 0"),
        ("segments: [new, old]", "segments: [new, new]", "line 11: the segment `new` stands twice in `segments`"),
        ("label: bought\ntime", "label: price\ntime", "line 12: the label `price` is declared as a feature"),
        ("user: shopper", "user: price", "line 14: `user: price` must name a feature of kind sparse"),
        ("  price: clip", "  price: unknown", "line 17: `invalid` of `price` is 'unknown'"),
        ("  label: bought\n  time", "  labels: bought\n  time", "line 21, `table`: unknown key `labels`"),
        ("    column: at\n", "", "line 22, `table`.time: the key `column` is missing"),
        ("unit: timestamp", "unit: weeks", "line 24, `table`.time: `unit` is 'weeks'"),
        ("n: new, o: old", "n: new, o: odd", "line 27, `table`.segment.names: leads to `odd` (did you mean `old`?)"),
        ("test_start: 2011-08", "test_start: 2011-06", "line 28, `table`.splits: "),
        ("2011-07-01", "soon", "line 29, `table`.splits: `validation_start` is 'soon'"),
        ("    price: net.price", "    prize: net.price", "line 32, `table`.columns: `prize` (did you mean `price`?)"),
        ("    price: net.price", "    a.b: c\n    a: d", "line 32, `table`.columns: `a.b` is not a feature"),
        ("name: shop\n", "name: shop\nname: store\n", "the key `name` stands twice, first in line 1"),
        ("validation_start: 2011-07-01", "validation_start: 2011-99-01", "line 29, column 23"),
    ],
)
def test_refusal_names_the_line_of_the_key(tmp_path: Path, found: str, instead: str, said: str) -> None:
    path = tmp_path / "shop.yaml"
    assert SHOP.count(found) == 1
    path.write_text(SHOP.replace(found, instead), encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load_table_layout(path, load_schema(path))
    assert f"Schema file {path}" in str(refused.value)
    assert said in str(refused.value)


def test_block_that_is_missing_has_no_line(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP[: SHOP.index("table:")], encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load_table_layout(path, load_schema(path))
    assert str(refused.value).startswith(f"Schema file {path}, `table`: the block is missing")
