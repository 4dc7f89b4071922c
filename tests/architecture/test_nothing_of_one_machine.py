"""No tracked file names a place that only one machine has."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

# The roots under which machines keep people's and services' own files. The test's own examples are put together from
# parts, as this file is tracked too.
OWN_ROOTS = ("work", "root", "home", "Users", "opt", "mnt", "media", "scratch")
PATTERN = re.compile(rb"(?<![\w.~$}\-/])/(?:" + "|".join(OWN_ROOTS).encode() + rb")/[\w.\-]+")


def machine_paths(content: bytes) -> list[str]:
    """Absolute paths below one of `OWN_ROOTS`."""
    return [match.decode() for match in PATTERN.findall(content)]


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git checkout, so nothing says which files belong to the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix(): paths
        for path in tracked_files()
        if (paths := machine_paths(path.read_bytes()))
    }
    assert found == {}


@pytest.mark.parametrize("root", OWN_ROOTS)
def test_path_of_one_machine_is_found(root: str) -> None:
    path = f"/{root}/somebody"
    assert machine_paths(f'read("{path}/data")'.encode()) == [path]


@pytest.mark.parametrize("text", ["../shared/root/data", "https://host/home/page", "~/opt/x", "and/or/home/run"])
def test_relative_paths_and_addresses_are_no_machine_paths(text: str) -> None:
    assert machine_paths(text.encode()) == []
