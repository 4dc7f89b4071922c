"""Prepared data are found again, and read through once a process to see that nothing has rotted."""

import os
from pathlib import Path

import pytest

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError
from recsys.progress import Progress, silent
from recsys.run import prepare
from tests.pipelines.conftest import small_overrides


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = compose_config(small_overrides(tmp_path_factory.mktemp("world")))
    prepare.run(config, silent)
    return config


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were read through since, in a process that knows of none yet."""
    found: list[Path] = []
    original = EncodedDataset.require_intact

    def counted(self: EncodedDataset, progress: Progress = silent) -> None:
        found.append(self.root)
        original(self, progress)

    monkeypatch.setattr(EncodedDataset, "require_intact", counted)
    monkeypatch.setattr(prepare, "_INTACT", set())
    return found


def test_data_prepared_before_are_read_through_once_a_process(config: RunConfig, readings: list[Path]) -> None:
    first, second = prepare.run(config, silent), prepare.run(config, silent)

    assert first.root == second.root
    assert readings == [first.root]


def test_what_this_process_has_just_prepared_is_not_read_again(
    config: RunConfig, readings: list[Path], tmp_path: Path
) -> None:
    overrides = [word for word in small_overrides(config.runtime.encoded.parent) if "encoded" not in word]
    elsewhere = compose_config([*overrides, f"runtime.encoded={tmp_path}/encoded"])

    for _ in range(2):
        prepare.run(elsewhere, silent)

    assert readings == []


def test_a_file_that_changed_since_it_was_read_is_read_again_and_refused(
    config: RunConfig, readings: list[Path]
) -> None:
    encoded = prepare.run(config, silent)
    file = encoded.files("test")[0]
    whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    file.write_bytes(flipped)

    with pytest.raises(DataError, match="sha256 mismatch in"):
        prepare.run(config, silent)

    file.write_bytes(whole)
    os.utime(file, ns=times)
    assert readings == [encoded.root] * 2
