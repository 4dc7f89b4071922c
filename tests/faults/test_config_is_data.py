"""Configuration and schema files are data: whatever a stranger writes into them, no code runs and no secret is read."""

import time
import tracemalloc
from pathlib import Path

import pytest

from recsys.config.compose import compose_config
from recsys.errors import UsageError
from recsys.features.schema import load_schema

SECRET = "hunter2"


@pytest.mark.parametrize(
    "word",
    [
        "training.epochs=${oc.env:RECSYS_SECRET}",
        "+training.extra=${oc.env:RECSYS_SECRET,1}",
        "ablation.grid={training.seed:['${oc.env:RECSYS_SECRET}']}",
        "training.epochs=${oc.decode:${oc.env:RECSYS_SECRET}}",
        "training.epochs=${hydra:runtime.cwd}",
    ],
)
def test_an_override_computes_nothing_and_tells_no_secret(word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECSYS_SECRET", SECRET)
    with pytest.raises(UsageError, match=r"asks to compute a value .*Give the value itself") as refused:
        compose_config([word])
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("key", ["data._target_", "network._target_", "_target_"])
def test_a_class_path_in_the_configuration_is_an_unknown_key(key: str, tmp_path: Path):
    with pytest.raises(UsageError, match="_target_"):
        compose_config([f"+{key}=builtins.open", f"+data.file={tmp_path}/marker", "+data.mode=w"])
    assert not (tmp_path / "marker").exists()


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
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
