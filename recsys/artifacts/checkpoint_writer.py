"""Checkpoints written while training goes on: the steps wait for copies to the host's memory, and for nothing else."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from recsys.artifacts.checkpoint import save_checkpoint
from recsys.features.contract import FeatureContract
from recsys.sharding.processes import ProcessContext, group_beside
from recsys.training.snapshot import Snapshot

_PATIENCE_SECONDS = 20  # less than torchrun leaves its processes, of which one has failed, before it kills them
logger = logging.getLogger("recsys.artifacts")


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own; a context, which waits for the last one at its end.

    Every process has one, makes it at the same point, and saves at the same steps. The processes speak by a group of
    their own meanwhile: in that of the steps, what belongs to a step and what to a checkpoint would be mixed up.

    Args:
        keep_last: how many checkpoints stay in the folder.
    """

    def __init__(self, folder: Path, contract: FeatureContract, keep_last: int, context: ProcessContext) -> None:
        self._folder, self._contract, self._keep_last = folder, contract, keep_last
        self._group = group_beside() if context.world_size > 1 else None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif isinstance(error, Exception):
            # What was under way may be the only checkpoint that the run can go on from; the others of several processes
            # may not be there any more, though.
            try:
                self.wait(None if self._group is None else _PATIENCE_SECONDS)
            except Exception as second:
                logger.warning("The last checkpoint was not written: %s", second)

    def save(self, step: int, snapshot: Callable[[], Snapshot], facts: Mapping[str, Any]) -> None:
        """Wait for the checkpoint before; take the snapshot; begin to write it, and return.

        Raises:
            CannotWriteError: the checkpoint before could not be written; whatever else went wrong with it.
        """
        self.wait()
        # Only now, so that there is one copy of the run at a time.
        held = snapshot()
        # If the process is told twice to end, it does not stay for this thread: what is half-written has no name yet.
        self._thread = threading.Thread(target=self._write, args=(step, held, dict(facts)), daemon=True)
        self._thread.start()

    def went_well(self) -> bool:
        """Whether all is well with what is under way: true, or what went wrong is raised, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return True

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is under way, or for so long, and raise what went wrong with it."""
        if self._thread is not None:
            self._thread.join(seconds)
            self._thread = None
        self.went_well()

    def _write(self, step: int, held: Snapshot, facts: dict[str, Any]) -> None:
        try:
            facts |= {"loop": held.loop}
            place, contract = self._folder, self._contract
            save_checkpoint(place, step, held.tensors, facts, held.process, contract, self._keep_last, self._group)
        except BaseException as error:
            self._failure = error
