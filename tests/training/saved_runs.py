"""Small runs that are kept on disk and gone on with, as the commands do it."""

from pathlib import Path

import torch

from recsys.artifacts.checkpoint import newest_checkpoint, save_checkpoint
from recsys.sharding.whole_state import whole, whole_state
from recsys.training.loop import LoopState
from recsys.training.snapshot import load_state_dict, state_dict
from tests.small_model import small_contract
from tests.training.small_run import SmallRun


class KilledError(Exception):
    """The process died."""


def save_run(run: SmallRun, folder: Path) -> None:
    """Keep a checkpoint of the run as it is; every process calls it."""
    loop = run.state.to_document()
    held = state_dict(run.ranker, run.optimizers, run.stream, run.best, loop, run.average)
    facts = {"loop": held.loop, "stages": run.stages.to_document() if run.stages else None}
    save_checkpoint(folder, run.state.step, held.tensors, facts, held.process, small_contract(), keep_last=1)


def resume_run(run: SmallRun, folder: Path) -> None:
    """Bring a new run to the newest checkpoint; every process calls it."""

    def refuse(notice: str) -> None:
        raise AssertionError(notice)

    saved = newest_checkpoint(folder, small_contract(), refuse)
    assert saved is not None
    if run.stages:
        run.stages.go_to(saved.facts["stages"])
    loop = load_state_dict(saved, run.ranker, run.optimizers, run.stream, run.best, run.average)
    run.state = LoopState.from_document(loop)
    if run.stages:
        run.stages.confirm()


def die_at_checkpoint(run: SmallRun, folder: Path) -> None:
    """Let the run keep its next checkpoint, and die."""

    def save_and_die(state: LoopState) -> None:
        save_run(run, folder)
        raise KilledError

    run.on_checkpoint = save_and_die


def everything(run: SmallRun) -> dict[str, torch.Tensor]:
    """Weights, the best ones, their average and all optimizer state, whole; every process calls it."""
    average = {} if run.average is None else whole(run.average.parts())
    return {
        **whole_state(run.ranker),
        **whole(run.optimizers.parts()),
        **{f"best/{name}": tensor for name, tensor in whole(run.best.parts()).items()},
        **{f"average/{name}": tensor for name, tensor in average.items()},
    }


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The names of what is not the same to the bit, or is in one alone."""
    common = one.keys() & other.keys()
    return sorted([*(one.keys() ^ other.keys()), *(n for n in common if not torch.equal(one[n], other[n]))])
