"""Raw rows behind a URI, copied to this machine once: the preparation reads its rows several times over."""

import re
from pathlib import Path

from recsys.errors import DataError
from recsys.files import fingerprint_of
from recsys.progress import Progress
from recsys.scheduling.stage import Stage, run_stage
from recsys.streaming.storage import open_folder

_COPY = "files"


def uri_of(path: Path) -> str | None:
    """Return the URI that a user wrote where a path is expected; None for a path.

    >>> uri_of(Path("s3://bucket/clicks")), uri_of(Path("data/raw"))
    ('s3://bucket/clicks', None)
    """
    # A path holds one slash where a URI has two. A folder may have such a name too.
    found = None if path.exists() else re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)", path.as_posix())
    return f"{found[1]}://{path.as_posix()[found.end() :]}" if found else None


def local_copy(uri: str, below: Path, progress: Progress) -> Path:
    """Return a folder with the files of a URI, copied again only where one of them changed there.

    Raises:
        DataError: nothing lies there, or it cannot be read.
        CannotWriteError: `below` cannot be written.
    """
    folder = open_folder(uri)
    there = folder.contents()
    if not there:
        raise DataError(f"There are no files at {folder.shown} (`data.raw`). Check the address and the keys.")
    if strays := [name for name in there if ".." in Path(name).parts]:
        raise DataError(f"{folder.shown} holds `{strays[0]}`, which leads out of it; expected files that lie in it.")
    stage = Stage("copy", inputs={folder.shown: fingerprint_of(there)}, parameters={}, code_version="")

    def work(target: Path) -> None:
        for done, name in enumerate(there):
            progress(f"copy from {folder.shown}", done, len(there))
            copy = target / _COPY / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            folder.copy(name, copy)
        progress(f"copy from {folder.shown}", len(there), len(there))

    return run_stage(stage, below / f"raw-{stage.key}", work).path / _COPY
