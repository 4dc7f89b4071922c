"""What a wheel of this tree holds, what it says that it needs, and what it says where it cannot work."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import REPOSITORY, imports, sources

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


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, in a folder where nothing else is."""
    tree, built, place = (tmp_path_factory.mktemp(name) for name in ("tree", "built", "place"))
    for package in ("recsys", "pipelines"):
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(REPOSITORY / file, tree)
    script = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def run(unpacked: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main())", *words],
        cwd=unpacked,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_is_whole_in_it_with_all_that_is_no_python(unpacked: Path) -> None:
    ours = {
        path.relative_to(REPOSITORY)
        for package in ("recsys", "pipelines")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path.suffix for path in ours} == {".py", ".jinja", ".typed"}
    assert {path for path in ours if not (unpacked / path).is_file()} == set()


def test_every_library_that_is_imported_is_asked_for(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    lines = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata.read_text(), flags=re.M)
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert asked == {canonicalize_name(Requirement(line).name) for line in declared}
    used = {name.partition(".")[0] for source in sources() for name, _ in imports(source)}
    used -= {"", "recsys", "pipelines", *sys.stdlib_module_names}
    assert {name for name in used if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in asked} == set()


@pytest.mark.parametrize("somebody_elses", [False, True])
def test_a_command_that_needs_the_clone_says_so_and_how_to_get_one(unpacked: Path, somebody_elses: bool) -> None:
    if somebody_elses:
        (unpacked / "conf").mkdir()
    ended = run(unpacked, "train", "data=simulated")
    assert ended.returncode == 2
    said = " ".join(ended.stderr.split())
    assert f"This copy of recsys, in {unpacked}, was installed without its configuration" in said
    assert "clone it, run `make setup` there" in said
    assert "Traceback" not in ended.stderr


def test_its_help_can_be_read(unpacked: Path) -> None:
    ended = run(unpacked, "--help")
    assert ended.returncode == 0
    assert "recsys demo" in ended.stdout
