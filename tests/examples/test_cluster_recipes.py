"""The Slurm script and the Kubernetes manifest: what they start is what torchrun and `recsys` take, and it is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from recsys.config.compose import compose_config
from tests.architecture.sources import REPOSITORY

RECIPES = REPOSITORY / "examples" / "cluster"


def started(command: list[str], folder: Path, **environment: str) -> list[str]:
    """The words with which a recipe starts torchrun, where a scheduler's programs are stood in for."""
    stand_ins = {
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": "printf 'node7\\nnode8\\n'",
        "torchrun": 'printf "%s\\n" "$@"',
    }
    for name, lines in stand_ins.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(command, env={"PATH": path, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def slurm(folder: Path) -> list[str]:
    variables = {
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_ID": "42",
    }
    words = ["data=online_retail", "data.raw=/data/my rows"]
    return started(["bash", str(RECIPES / "slurm.sh"), *words], folder, RECSYS_SHARED="/shared", **variables)


def kubernetes(folder: Path) -> list[str]:
    service, job = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text("utf-8"))
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    return started([*container["command"], *container["args"]], folder, JOB_COMPLETION_INDEX="1")


@pytest.mark.parametrize("recipe", [slurm, kubernetes])
def test_two_machines_of_eight_gpus_train_one_run(recipe, tmp_path: Path) -> None:
    parsed = get_args_parser().parse_args(recipe(tmp_path))
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_backend) == ("2", "8", "c10d")
    assert parsed.rdzv_endpoint in ("node7:29500", "recsys-0.recsys:29500")
    assert parsed.module
    command, *overrides = parsed.training_script_args
    assert (parsed.training_script, command) == ("recsys", "train")
    config = compose_config(overrides)
    assert config.data.name == "online_retail"
    assert str(config.runtime.runs) == "/shared/runs"


def test_every_file_that_the_docs_name_is_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    files = set(listed.stdout.splitlines())
    folders = {str(parent) for name in files for parent in Path(name).parents}
    missing = []
    for page in (REPOSITORY / name for name in sorted(files) if name.endswith(".md")):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            target = os.path.relpath((page.parent / link).resolve(), REPOSITORY)
            if target not in files | folders:
                missing.append(f"{page.name}: {link}")
    assert missing == []
