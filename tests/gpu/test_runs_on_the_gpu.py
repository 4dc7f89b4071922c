"""Whole runs on a GPU: routed in bfloat16, frozen and cached, and a job of a study in a process of its own."""

import json
from pathlib import Path

import pytest
import torch

from pipelines.cli import main
from recsys.progress import Progress, silent
from recsys.study.workers import Job, run_side_by_side
from tests.method.lower_precision import ALL_AND_ONE_ABSENT, DESIGNS, assert_close_to_single_precision
from tests.pipelines.conftest import small_overrides

pytestmark = pytest.mark.gpu
ROUTES = (
    "composition.routes={students: [embedding_tower], commuters: [interaction_network], "
    "families: [embedding_tower, interaction_network], collectors: [interaction_network]}"
)


@pytest.mark.parametrize(("composition", "network"), DESIGNS)
@pytest.mark.parametrize(
    ("rows", "dtype"),
    # Not each with each: every design meets both, and on a CPU all four.
    list(zip(ALL_AND_ONE_ABSENT.values(), [torch.bfloat16, torch.float16], strict=True)),
    ids=["bfloat16, all segments", "float16, one absent"],
)
def test_gradients_in_lower_precision_are_close_to_those_of_single(composition, network, rows, dtype):
    assert_close_to_single_precision(composition, network, rows, dtype, torch.device("cuda"))


def multiply(folder: Path, progress: Progress) -> None:
    # As an arm does: it imports the engine, which asks for GPUs, and computes.
    import recsys.study.arm  # noqa: F401

    found = torch.full((2, 2), 3.0, device="cuda") @ torch.eye(2, device="cuda")
    (folder / "product").write_text(json.dumps([found.sum().item(), torch.cuda.device_count()]))


def test_a_piece_of_a_study_computes_on_the_gpu_in_a_process_of_its_own(tmp_path):
    torch.zeros(1, device="cuda")  # this process has used the GPU already, as one that pre-trained a tower has
    job = Job("one", multiply, (tmp_path,), tmp_path / "log")

    assert run_side_by_side([job], 2, silent, "jobs", "cuda") == []
    assert json.loads((tmp_path / "product").read_text())[0] == 12.0


@pytest.mark.parametrize(
    "words",
    [
        ["composition=conditional_route", ROUTES, "training.precision=bfloat16"],
        ["composition=conditional", "training_mode=frozen_tower", "training_mode.cache_megabytes=64"],
    ],
    ids=["routed, bfloat16", "frozen, cached"],
)
def test_a_run_trains_and_is_measured_on_the_gpu(context, tmp_path, words):
    assert main(["train", *small_overrides(tmp_path), "runtime.device=cuda", *words]) == 0

    (result,) = tmp_path.glob("runs/simulated/*/result.json")
    found = json.loads(result.read_text())
    assert 0.5 < found["scores"]["auc/all"] < 1
    assert found["cost"]["peak_gpu_memory_bytes"] > 0
