"""Files out of a zip, under names of ours: a member's own could lead out of the folder."""

import shutil
import zipfile
import zlib
from pathlib import Path

from recsys.errors import DataError


def member_sizes(path: Path) -> dict[str, int]:
    """Return the names of a zip's members with their declared sizes in bytes.

    Raises:
        DataError: it cannot be read as a zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename: member.file_size for member in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a zip ({error}). Remove it and fetch it again.") from error


def extract_member(path: Path, member: str, target: Path) -> None:
    """Write one member of the zip `path` to the file `target`, a piece at a time.

    Raises:
        DataError: the zip is torn, or its members are encrypted.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    # A RuntimeError is raised for a password, and for a method of compression that is not known here.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{path}: {error}. The zip is torn: remove it and fetch it again.") from error
