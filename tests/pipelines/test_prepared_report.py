"""`recsys prepare` tells what came out, names a leak, and looks at the rows once."""

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import CannotWriteError
from recsys.inspection.prepared_rows import report_on
from recsys.progress import Progress, silent
from recsys.run import prepare, prepared_report
from tests.pipelines.conftest import small_overrides
from tests.pipelines.own_table import OwnTable


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return small_overrides(tmp_path_factory.mktemp("world"))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose rows were looked at since."""
    found: list[Path] = []

    def counted(encoded: EncodedDataset, progress: Progress = silent):
        found.append(encoded.root)
        return report_on(encoded, progress)

    monkeypatch.setattr(prepared_report, "code_of", lambda entry: "of report_on")
    monkeypatch.setattr(prepared_report, "report_on", counted)
    return found


def cells(printed: str) -> dict[str, list[str]]:
    """Every row of every table by its first cell."""
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_rows_segments_and_features_are_told_and_the_rows_looked_at_once(
    words: list[str], looks: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", *words]) == 0
    first = capsys.readouterr().out
    table = cells(first)
    assert table["train"][0] == "3,200"
    assert table["train"][1:3] == ["2025-01-01", "2025-01-08"]
    assert table["item_id"][:2] == ["sparse", "100.0%"]
    assert 0.5 < float(table["item_id"][-1]) < 0.9
    assert "Each feature by itself, in 3,200 train, 400 validation rows" in first
    assert "Nothing stands out" in first

    assert main(["prepare", *words]) == 0
    assert cells(capsys.readouterr().out) == table
    assert len(looks) == 1


def test_a_machine_is_told_the_same_in_full(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    encoded = prepare.run(compose_config(words), silent)
    report = report_on(encoded)
    assert found["path"] == str(encoded.root)
    assert found["counts"] == encoded.manifest.counts
    assert {name: found[name] for name in report.to_document()} == json.loads(json.dumps(report.to_document()))
    assert [each["split"] for each in found["splits"]] == ["train", "validation", "test"]


def test_the_report_lies_beside_rows_that_stay_as_they_were(words: list[str]) -> None:
    encoded = prepare.run(compose_config(words), silent)
    prepared_report.run(encoded, silent)
    assert (encoded.root.parent / "report.json").is_file()
    encoded.require_intact()
    assert prepare.prepared(compose_config(words)) is not None


@pytest.mark.parametrize("text", ["", "[]", '{"key": "another"}', "torn"])
def test_a_report_that_cannot_be_used_is_made_anew(text: str, words: list[str], looks: list[Path]) -> None:
    encoded = prepare.run(compose_config(words), silent)
    report = prepared_report.run(encoded, silent)
    path = encoded.root.parent / "report.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] if text == "torn" else text)
    looks.clear()
    assert prepared_report.run(encoded, silent) == report
    assert looks == [encoded.root]
    assert path.read_text() == whole


def test_rows_that_can_only_be_read_are_told_of_all_the_same(
    words: list[str], monkeypatch: pytest.MonkeyPatch, looks: list[Path]
) -> None:
    def refused(path: Path, text: str) -> None:
        raise CannotWriteError(f"Cannot write {path}: Read-only file system.")

    monkeypatch.setattr(prepared_report, "write_text_atomically", refused)
    encoded = prepare.run(compose_config(words), silent)
    (encoded.root.parent / "report.json").unlink(missing_ok=True)
    assert prepared_report.run(encoded, silent) == report_on(encoded)
    assert not (encoded.root.parent / "report.json").exists()


def test_a_column_that_is_the_label_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = OwnTable(tmp_path)
    table.columns["price"] = [3.0 - clicked for clicked in table.columns["clicked"]]
    table.write()
    assert main(["prepare", *table.words]) == 0
    printed = capsys.readouterr().out
    assert (
        "1. price: by itself it separates the labels with an AUC of 1.000 in training, 1.000 in validation." in printed
    )
    assert "Usually: it is made of the label, or becomes known only after it." in printed
    assert "Mend: check when its value is known" in printed
    assert "2. " not in printed
    assert "Next: recsys train" in printed
