"""What a wheel of this tree holds, what it says that it needs, and that it works where no clone is."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recsys.artifacts.export import load_scorer
from tests.architecture.sources import REPOSITORY, imports, sources
from tests.pipelines.conftest import small_overrides

# Distributions that are imported by another name than their own, and those that a declared one brings as its own API.
DISTRIBUTIONS = {
    "hydra": "hydra-core",
    "ibis": "ibis-framework",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "omegaconf": "hydra-core",
    "pydantic_core": "pydantic",
    "fbgemm_gpu": "torchrec",
}


TWO_ARMS = "ablation.grid={training_mode:[end_to_end,frozen_tower]}"
# Where a wheel carries what stands at the top level of a clone.
INSIDE = {"pipelines": "recsys/pipelines", "conf": "recsys/conf", "data/schemas": "recsys/data/schemas"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and, by path, the libraries of this one; the clone is not seen there."""
    tree, built, place = (tmp_path_factory.mktemp(name) for name in ("tree", "built", "place"))
    for folder in ("recsys", *INSIDE):
        shutil.copytree(REPOSITORY / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(REPOSITORY / file, tree)
    script = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    # A path alone: the files that tell Python of an editable install are read from its own site-packages only.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--no-deps"]
    install += ["--ignore-installed", str(wheel)]
    # The clone counts as an installed copy where it is on the path.
    subprocess.run(install, check=True, capture_output=True, env=_without_the_clone())
    return packages


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(installed.parents[2] / "bin/recsys"), *words]
    return subprocess.run(command, cwd=folder, env=_without_the_clone(), capture_output=True, text=True, check=False)


def _without_the_clone() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_it_holds_the_library_the_commands_and_all_that_is_no_python(installed: Path) -> None:
    ours = {
        Path(INSIDE.get(folder, folder)) / path.relative_to(REPOSITORY / folder)
        for folder in ("recsys", *INSIDE)
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path.suffix for path in ours} == {".py", ".jinja", ".typed", ".yaml"}
    assert {path for path in ours if not (installed / path).is_file()} == set()


def test_it_takes_no_other_name_than_its_own(installed: Path) -> None:
    (top_level,) = installed.glob("recsys-*.dist-info/top_level.txt")
    assert top_level.read_text().split() == ["recsys"]
    names = {path.name for path in installed.iterdir() if not path.name.endswith((".dist-info", ".pth"))}
    assert names == {"recsys"}


def test_every_library_that_is_imported_is_asked_for(installed: Path) -> None:
    (metadata,) = installed.glob("recsys-*.dist-info/METADATA")
    lines = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata.read_text(), flags=re.M)
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert asked == {canonicalize_name(Requirement(line).name) for line in declared}
    optional = re.findall(r"^Requires-Dist: ([^;\n]+); extra == ", metadata.read_text(), flags=re.M)
    asked |= {canonicalize_name(Requirement(line).name) for line in optional}
    used = {name.partition(".")[0] for source in sources() for name, _ in imports(source)}
    used -= {"", "recsys", "pipelines", "py4j", *sys.stdlib_module_names}  # pyspark brings py4j, whose errors it raises
    assert {name for name in used if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in asked} == set()


def test_a_study_runs_in_an_empty_folder_without_the_clone(installed: Path, tmp_path: Path) -> None:
    small = [word for word in small_overrides(tmp_path) if not word.startswith(("experiment=", "runtime.r"))]
    ended = run(installed, tmp_path, "ablate", "experiment=smoke", "ablation.seeds=[0]", *small, TWO_ARMS)
    assert ended.returncode == 0, ended.stderr
    (report,) = tmp_path.glob("runs/*/*/report.html")
    assert "</html>" in report.read_text()
    model = next(tmp_path.glob("runs/*/*/*/model"))
    shutil.rmtree(tmp_path / "encoded")
    rows = next(tmp_path.glob("raw/*/world/days/*.parquet"))
    probability = load_scorer(model).score(pq.read_table(rows))
    assert ((probability > 0) & (probability < 1)).all()
