"""Every notebook runs from top to bottom, and what it shows is of the kinds that the stored outputs are of."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import REPOSITORY
from tests.examples.execute import execute_in
from tests.faults.commands import Commands

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


def kinds(notebook: dict[str, Any]) -> list[list[tuple[str, list[str]]]]:
    """For each code cell, the kinds of its outputs."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[(each["output_type"], sorted(each.get("data", []))) for each in cell["outputs"]] for cell in code]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_stored_outputs_are_whole(path: Path, commands: Commands, tmp_path: Path) -> None:
    result, log, folder = tmp_path / "executed.ipynb", tmp_path / "log", tmp_path / "empty"
    folder.mkdir()
    function = f"{execute_in.__module__}:{execute_in.__name__}"
    ending = commands.wait(commands.start_function(function, [str(folder), str(path), str(result)], log), log)
    assert ending is not None
    assert ending.code == 0, ending.printed
    assert kinds(json.loads(result.read_text("utf-8"))) == kinds(json.loads(path.read_text("utf-8")))


def test_there_are_three_and_none_tells_where_it_was_made() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_ablation", "gradient_norms", "own_network_and_composition"]
    for path in NOTEBOOKS:
        text = path.read_text("utf-8")
        assert all(place not in text for place in ("/tmp", "/home", "/root", str(REPOSITORY)))
