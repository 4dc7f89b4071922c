"""Write the lock files: the exact versions that every machine of one kind installs.

    python3 requirements/lock.py

Standard library only, so that a bare machine can run it. The CPU set is installed into a scratch environment, in the
order that the Makefile follows, and then listed: a set that was never installed together is no evidence that it can
be. The CUDA set is only resolved, which needs no GPU and no gigabytes, under the versions that the CPU set has.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent
SHIM = FOLDER / "fbgemm_gpu_shim"
HEADER = "# {target}: made by `make lock` from pyproject.toml with Python {python}; do not edit by hand.\n"
# Part of every environment, at whatever version it was made with.
INSTALLERS = {"pip", "setuptools", "wheel"}


def main() -> None:
    """Write `cpu.lock.txt` and `cuda.lock.txt` beside this file."""
    with tempfile.TemporaryDirectory(prefix="recsys-lock-") as scratch:
        pip = make_environment(Path(scratch) / "environment")
        cpu = lock_text("CPU", lock_cpu(pip))
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text(cpu)
        cuda = lock_text("CUDA", lock_cuda(pip, Path(scratch) / "report.json", constraints))
    # Both or neither: two locks of different days would hold different versions of what they share.
    (FOLDER / "cpu.lock.txt").write_text(cpu)
    (FOLDER / "cuda.lock.txt").write_text(cuda)
    print("Wrote requirements/cpu.lock.txt and requirements/cuda.lock.txt.")


def lock_cpu(pip: list[str]) -> list[tuple[str, str]]:
    """Install everything as the Makefile does, check it, and return (name, version) of what stands."""
    declared = declared_requirements()
    run([*pip, "install", torch_requirement(declared)])
    run([*pip, "install", str(SHIM)])
    run([*pip, "install", *declared])
    run([*pip, "check"])
    listed = json.loads(run([*pip, "list", "--format=json"], capture=True))
    shim = {"fbgemm-gpu"}
    return [(entry["name"], entry["version"]) for entry in listed if normal_name(entry["name"]) not in shim]


def lock_cuda(pip: list[str], report: Path, constraints: Path) -> list[tuple[str, str]]:
    """Resolve the CUDA set without installing it and return (name, version) of what would be installed."""
    declared = declared_requirements()
    torch, version = torch_requirement(declared).split("==")
    fbgemm = re.search(r"fbgemm-gpu-cpu==([\w.]+)", (SHIM / "pyproject.toml").read_text())
    assert fbgemm is not None, "the shim pins the CPU build that it pulls"
    # Three equals signs match the version as text: a CPU build (`2.13.0+cpu`) that this machine's pip prefers is no
    # match. `fast-deps` reads each wheel's metadata by ranges instead of fetching the wheel.
    resolving = ["install", "--dry-run", "--ignore-installed", "--quiet", "--use-feature=fast-deps"]
    written = ["--report", str(report), "--constraint", str(constraints)]
    run([*pip, *resolving, *written, f"{torch}==={version}", f"fbgemm-gpu==={fbgemm.group(1)}", *declared])
    resolved = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return [(entry["name"], entry["version"]) for entry in resolved]


def lock_text(target: str, versions: Iterable[tuple[str, str]]) -> str:
    """Return the lock file's text: sorted `name==version` lines.

    A local version (`2.13.0+cpu`) names the folder or index that it came from, where other machines cannot look; the
    public version before the plus sign resolves everywhere.
    """
    pins = {normal_name(name): version.split("+")[0] for name, version in versions}
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins) if name not in INSTALLERS | {"recsys"}]
    return HEADER.format(target=target, python=".".join(map(str, sys.version_info[:2]))) + "".join(lines)


def declared_requirements() -> list[str]:
    """Return the requirements of `pyproject.toml`, those of development included."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared: list[str] = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return declared


def torch_requirement(declared: list[str]) -> str:
    """Return torch's exact requirement, which goes in first: without it pip may take another build's torch."""
    return next(requirement for requirement in declared if re.fullmatch(r"torch==[\w.]+", requirement))


def normal_name(name: str) -> str:
    """Return the name as package indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def make_environment(folder: Path) -> list[str]:
    """Make an empty environment and return the command that runs its pip, brought up to date."""
    run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    run([*pip, "install", "--upgrade", "pip"])
    return pip


def run(command: list[str], capture: bool = False) -> str:
    """Run a command, show its output unless it is captured, and stop this script where it fails."""
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        what = f"`{' '.join(command)}` ended with {done.returncode}"
        sys.exit(f"requirements/lock.py: {what}; its output stands above, and no lock was changed.")
    return done.stdout or ""


if __name__ == "__main__":
    main()
