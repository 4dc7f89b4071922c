"""One arm of a study, in a process of its own."""

from recsys.config import RunConfig
from recsys.locks import held_lock
from recsys.progress import Progress
from recsys.run import train
from recsys.run.folder import CHECKPOINTS, RunIdentity, load_result

# An arm of a study that was killed notices that with its next step, and holds its own lock until then.
_PATIENCE_SECONDS = 60.0


def train_arm(config: RunConfig, identity: RunIdentity, progress: Progress) -> None:
    """Train one arm, going on from its newest checkpoint where it was broken off.

    Raises:
        BusyError: another process trains it, and still does after a minute.
    """

    def arm_progress(label: str, done: int, total: int) -> None:
        # One bar an arm; it is full when the arm is measured and recorded, not when its last step is taken.
        if label == f"training {identity.name}":
            progress(identity.name, done, total + 1)

    folder = identity.folder
    with held_lock(folder.parent / f".{folder.name}.lock", f"Arm {identity.name}", _PATIENCE_SECONDS):
        if load_result(folder) is None:
            resume = any((folder / CHECKPOINTS).glob("step-*"))
            result = train.run(config, identity, arm_progress, resume=resume)
            progress(identity.name, result.record.budget_steps + 1, result.record.budget_steps + 1)
