"""A stage that several processes do together: the first holds its lock and publishes it, and all of them work."""

from collections.abc import Callable
from pathlib import Path

from recsys.scheduling.stage import Stage, StageResult, run_stage
from recsys.sharding.first_process import heard, is_first, processes, tell, tell_failure, wait_for_all

_WORK, _DONE = "work", "done"


def run_stage_together(
    stage: Stage, final: Path, work: Callable[[Path], None], *, is_resumable: bool = False
) -> StageResult:
    """Do what `run_stage` does, in all processes; every process calls it.

    Args:
        work: is called in every process with the same folder, where the stage is not up to date. The folder is
            published when all of them have come back from it.

    Raises:
        BusyError, CannotWriteError: see `run_stage`; in every process.
    """
    if processes() == 1:
        return run_stage(stage, final, work, is_resumable=is_resumable)
    if is_first():
        return _lead(stage, final, work, is_resumable)
    word, path, was_run = heard()
    if word == _WORK:
        work(Path(path))
        wait_for_all()
        _, path, was_run = heard()
    return StageResult(Path(path), stage.key, was_run)


def _lead(stage: Stage, final: Path, work: Callable[[Path], None], is_resumable: bool) -> StageResult:
    def work_of_all(folder: Path) -> None:
        tell((_WORK, str(folder), True))
        work(folder)
        wait_for_all()

    try:
        result = run_stage(stage, final, work_of_all, is_resumable=is_resumable)
    except Exception as error:
        tell_failure(error)
        raise
    tell((_DONE, str(result.path), result.was_run))
    return result
