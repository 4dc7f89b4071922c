"""What a run left behind and something has damaged since is refused by file, with what to do about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from recsys.config import config_document
from recsys.config.compose import compose_config
from recsys.errors import DataError
from recsys.run.curves import CURVES, load_curves
from recsys.run.folder import CONFIG, RESULT, load_config, load_result
from recsys.study.tuning import TRIALS, load_trials

TORN: dict[str, bytes] = {
    "empty": b"",
    "torn": b'{"name": "a',
    "no JSON": b"hello",
    "another kind": b"[1, 2]",
    "a number": b"7",
    "no text": b"\xff\xfe\x00",
    "another version's": b'{"unknown": 1}',
}
READERS: dict[str, Callable[[Path], Any]] = {
    CONFIG: load_config,
    RESULT: load_result,
    CURVES: load_curves,
    TRIALS: load_trials,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("what", TORN)
def test_a_damaged_record_is_refused_by_its_path(name: str, what: str, tmp_path: Path):
    (tmp_path / name).write_bytes(TORN[what])
    with pytest.raises(DataError) as refused:
        READERS[name](tmp_path)
    assert f"{tmp_path / name} cannot be used (" in str(refused.value)
    assert "It is damaged, or another version wrote it" in str(refused.value)


COMMANDS = [["evaluate", "--run"], ["train", "--resume"]]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_run_with_a_torn_configuration_ends_with_65(words: list[str], tmp_path: Path, capsys):
    (tmp_path / CONFIG).write_text('{"data": {')
    assert main([*words, str(tmp_path)]) == 65
    message = capsys.readouterr().err
    assert f"{tmp_path / CONFIG} cannot be used (JSONDecodeError" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("words", COMMANDS)
def test_a_configuration_of_another_version_is_said_to_be_one(words: list[str], tmp_path: Path, capsys):
    document = config_document(compose_config([]))
    del document["training"]["patience"]
    (tmp_path / CONFIG).write_text(json.dumps(document))
    assert main([*words, str(tmp_path)]) == 65
    message = capsys.readouterr().err
    assert "`training.patience` is missing" in message
    assert "another version wrote it" in message


@pytest.mark.parametrize("words", COMMANDS)
def test_a_file_or_a_study_in_place_of_a_run_is_told_apart(words: list[str], tmp_path: Path, capsys):
    file, study = tmp_path / "file", tmp_path / "study"
    file.write_text("")
    (study / "frozen-s0-1a").mkdir(parents=True)
    (study / "frozen-s0-1a" / CONFIG).write_text("{}")
    assert main([*words, str(file)]) == 65
    assert f"{file} holds no run. Expected a folder" in capsys.readouterr().err
    assert main([*words, str(study)]) == 65
    assert f"It holds runs, such as {study}/frozen-s0-1a: name one of them." in capsys.readouterr().err
