"""The lock files hold what pyproject.toml asks for, and can be installed on any machine of their kind."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import REPOSITORY


def locked(target: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / f"{target}.lock.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {name: version for name, version in pins}  # noqa: C416 - a line without `==` must fail here


def declared() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_declared_requirement_is_locked_to_a_version_that_it_allows(target: str) -> None:
    pins = locked(target)
    wrong = {
        str(requirement): pins.get(canonicalize_name(requirement.name))
        for requirement in declared()
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    }
    assert wrong == {}, "run `make lock`"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_line_is_one_public_version_without_a_place_of_its_own(target: str) -> None:
    for name, version in locked(target).items():
        assert name == canonicalize_name(name)
        assert re.fullmatch(r"[\w.]+", version), f"{name}=={version}"


def test_both_kinds_of_machine_get_the_same_versions_of_what_they_share() -> None:
    cpu, cuda = locked("cpu"), locked("cuda")
    assert {name for name in cpu if cuda.get(name, cpu[name]) != cpu[name]} == set()
    assert set(cpu) - set(cuda) == {"fbgemm-gpu-cpu"}


def test_fbgemm_stands_once_per_kind_and_the_stand_in_pulls_the_locked_one() -> None:
    shim = tomllib.loads((REPOSITORY / "requirements" / "fbgemm_gpu_shim" / "pyproject.toml").read_text())
    version = locked("cpu")["fbgemm-gpu-cpu"]

    assert "fbgemm-gpu" not in locked("cpu")
    assert "fbgemm-gpu-cpu" not in locked("cuda")
    assert locked("cuda")["fbgemm-gpu"] == version
    assert shim["project"]["dependencies"] == [f"fbgemm-gpu-cpu=={version}"]


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("cpu", ["torch==", "fbgemm_gpu_shim", "cpu.lock.txt", "--editable"]),
        ("cuda", ["torch==", "cuda.lock.txt", "--editable"]),
    ],
)
def test_setup_installs_torch_first_then_the_stand_in_then_the_lock_then_recsys(target: str, steps: list[str]) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", f"TARGET={target}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installs = [line for line in plan.splitlines() if "$install" in line and '[ -n "" ]' not in line]

    assert len(installs) == len(steps)
    for line, step in zip(installs, steps, strict=True):
        assert step in line
