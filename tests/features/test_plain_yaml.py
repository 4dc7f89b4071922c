"""A schema file is data: whatever a stranger writes into it, no code runs and memory stays small."""

import datetime
import time
import tracemalloc
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system",
        "!!python/object/apply:builtins.exec",
        "!!python/object/new:os.system",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object/apply:subprocess.check_call",
    ],
)
def test_tag_that_asks_for_code_runs_none(tmp_path: Path, tag: str) -> None:
    marker = tmp_path / "marker"
    argument = f"open({str(marker)!r}, 'w')" if "exec" in tag else f"touch {marker}"

    message = refusal(tmp_path / "shop.yaml", f'name: {tag} ["{argument}"]\n')

    assert "cannot be read" in message
    assert "could not determine a constructor for the tag" in message
    assert not marker.exists()


def test_class_path_is_a_key_like_any_other_and_unknown(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    message = refusal(tmp_path / "shop.yaml", f"_target_: builtins.open\nfile: {marker}\nmode: w\n")
    assert "unknown key `_target_`" in message
    assert not marker.exists()


def test_alias_bomb_is_refused_in_under_a_second_and_in_little_memory(tmp_path: Path) -> None:
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    tracemalloc.start()
    started = time.monotonic()

    message = refusal(tmp_path / "shop.yaml", "\n".join(levels) + "\nfeatures: *a11\n")

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "aliases are not read; write out `*a0`" in message
    assert "line 2" in message
    assert time.monotonic() - started < 1.0
    assert peak < 20 << 20
    assert len(message) < 1000


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
