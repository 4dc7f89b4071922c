"""One arm of a study, in a process of its own."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recsys.config import RunConfig
from recsys.errors import BusyError
from recsys.progress import Progress
from recsys.run import train
from recsys.run.folder import CHECKPOINTS, RunIdentity, load_result
from recsys.scheduling.stage import held_lock

_PATIENCE_SECONDS = 60.0


def train_arm(config: RunConfig, identity: RunIdentity, progress: Progress) -> None:
    """Train one arm, going on from its newest checkpoint where it was broken off.

    Raises:
        BusyError: another process trains it, and still does after a minute.
    """

    def of_the_arm(label: str, done: int, total: int) -> None:
        # One bar an arm; it is full when the arm is measured and recorded, not when its last step is taken.
        if label == f"training {identity.name}":
            progress(identity.name, done, total + 1)

    folder = identity.folder
    with _patiently_locked(folder.parent / f".{folder.name}.lock", f"Arm {identity.name}"):
        if load_result(folder) is None:
            resume = any((folder / CHECKPOINTS).glob("step-*"))
            result = train.run(config, identity, of_the_arm, resume=resume)
            progress(identity.name, result.budget_steps + 1, result.budget_steps + 1)


@contextmanager
def _patiently_locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock. An arm of a study that was killed notices that with its next step and holds its own until then."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held_lock(path, what))
                break
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield
