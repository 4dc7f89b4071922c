"""`data.raw` may be a URI: its files are copied to this machine once, and prepared as local ones are."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.progress import silent
from recsys.run import prepare
from tests.pipelines.own_table import OwnTable


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """A file system that lives in this process alone, empty again afterwards."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def prepared_from(table: OwnTable, raw: str) -> Path:
    words = [word for word in table.words if not word.startswith("data.raw=")]
    return prepare.run(compose_config([*words, f"data.raw={raw}"]), silent).root


def test_rows_behind_a_uri_are_prepared_as_local_ones(tmp_path: Path, memory: fsspec.AbstractFileSystem):
    table = OwnTable(tmp_path)
    memory.put(str(table.raw), "/shop", recursive=True)

    remote, local = prepared_from(table, "memory://shop"), prepared_from(table, str(table.raw))

    assert remote == local  # named after what is in the files, not after where they lie


def test_files_are_copied_again_only_where_one_changed(tmp_path: Path, memory: fsspec.AbstractFileSystem):
    table = OwnTable(tmp_path)
    memory.put(str(table.raw), "/shop", recursive=True)
    first = prepared_from(table, "memory://shop")
    assert prepared_from(table, "memory://shop") == first
    assert len(list((tmp_path / "encoded").glob("raw-*"))) == 1

    table.columns = {name: values[:-1] for name, values in table.columns.items()}
    memory.put(str(table.write()), "/shop/clicks.parquet")

    assert prepared_from(table, "memory://shop") != first
    assert len(list((tmp_path / "encoded").glob("raw-*"))) == 2


def test_an_empty_address_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = OwnTable(tmp_path)

    assert main(["prepare", *table.words, "data.raw=memory://nothing"]) == 65

    assert "There are no files at memory://nothing" in capsys.readouterr().err.replace("\n", " ")


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, memory: fsspec.AbstractFileSystem, monkeypatch):
    monkeypatch.setattr("recsys.streaming.storage.Folder.contents", lambda folder: {"a/../../b.parquet": [1, 1]})
    table = OwnTable(tmp_path)

    assert main(["prepare", *table.words, "data.raw=memory://shop"]) == 65
    assert not list(tmp_path.rglob("b.parquet"))
