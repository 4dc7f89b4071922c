"""One arm of a study, in a process of its own, or in several; and the tower that arms stand on."""

from recsys.config import RunConfig
from recsys.locks import held_lock
from recsys.progress import Progress
from recsys.run import prepare, pretrain, train
from recsys.run.folder import CHECKPOINTS, RunIdentity, load_result
from recsys.study.job_processes import run_in_processes

# An arm of a study that was killed notices that with its next step, and holds its own lock until then.
_PATIENCE_SECONDS = 60.0


def train_arm(config: RunConfig, identity: RunIdentity, progress: Progress) -> None:
    """Train one arm, going on from its newest checkpoint where it was broken off.

    Raises:
        BusyError: another process trains it, and still does after a minute.
    """
    folder, what = identity.folder, f"Arm {identity.name}"
    # Held here, by the process that starts those of the arm and stays until they have ended.
    with held_lock(folder.parent / f".{folder.name}.lock", what, _PATIENCE_SECONDS):
        run_in_processes(config, what, _train, (config, identity), progress)


def make_tower(config: RunConfig, progress: Progress) -> None:
    """Make the tower of a study's arms, in as many processes as train one."""
    run_in_processes(config, f"Tower {config.tower.name}", _make_tower, (config,), progress)


def _make_tower(config: RunConfig, progress: Progress) -> None:
    pretrain.run(config, prepare.run(config, progress), progress)


def _train(config: RunConfig, identity: RunIdentity, progress: Progress) -> None:
    def arm_progress(label: str, done: int, total: int) -> None:
        # One bar an arm; it is full when the arm is measured and recorded, not when its last step is taken.
        if label == f"training {identity.name}":
            progress(identity.name, done, total + 1)

    if load_result(identity.folder) is None:
        resume = any((identity.folder / CHECKPOINTS).glob("step-*"))
        result = train.run(config, identity, arm_progress, resume=resume)
        progress(identity.name, result.record.budget_steps + 1, result.record.budget_steps + 1)
