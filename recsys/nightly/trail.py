"""What a scheduled run leaves in the tracking store beside its training: its checks, and that it was stopped."""

import json
from collections.abc import Mapping
from contextlib import suppress

from recsys.config import RunConfig
from recsys.errors import DataError
from recsys.files import write_text_atomically
from recsys.nightly.check import CHECKS
from recsys.nightly.places import INPUTS, DayFolder
from recsys.run.folder import RunIdentity, load_result
from recsys.run.record import open_store, run_params
from recsys.tracking import names
from recsys.tracking.run import start_run

_STOPPED = "stopped.json"
_NOTES = (INPUTS, CHECKS)


def notes_of(folder: DayFolder) -> dict[str, str]:
    """The texts that a day's run is given along from its start, by the name of the file."""
    return {name: (folder.path / name).read_text("utf-8") for name in _NOTES if (folder.path / name).is_file()}


def record_on_run(
    config: RunConfig, folder: DayFolder, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None
) -> None:
    """Add to the run of a day's model, which has ended; the same again changes nothing in the store."""
    result = load_result(folder.path)
    assert result is not None
    with start_run(open_store(config), result.name, {}, {}, resume=result.spool_id) as tracked:
        tracked.set_tags(tags)
        tracked.log_final(metrics or {})


def record_stop(config: RunConfig, identity: RunIdentity, error: DataError, tags: Mapping[str, str]) -> None:
    """Record a run that was stopped before training, once for one reason."""
    path = identity.folder / _STOPPED
    text = json.dumps({"reason": str(error)}, indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    # The run ends as FAILED, with the error's text as its reason.
    with (
        suppress(DataError),
        start_run(
            open_store(config),
            identity.name,
            run_params(config, identity.arm, names.NONE, identity.unused),
            identity.tags() | dict(tags),
        ) as tracked,
    ):
        for name, content in identity.notes.items():
            tracked.attach(name, content)
        raise error
    write_text_atomically(path, text)
