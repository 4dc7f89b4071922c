"""Where files lie: a folder on a local disk, or one behind a URI of any file system that Arrow or fsspec knows."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

import fsspec
import pyarrow as pa
from pyarrow import fs

from recsys.errors import DataError, UsageError
from recsys.files import files_below, folder_columns, is_leftover

_T = TypeVar("_T")


@dataclass(frozen=True)
class Folder:
    """A folder of files.

    Attributes:
        root: where it lies in its file system; a `Path` where that is this machine's.
        shown: what a user calls it, without passwords.
    """

    filesystem: fs.FileSystem
    root: PurePath
    shown: str

    @property
    def is_local(self) -> bool:
        """Whether files are read at the speed of a disk, without requests that take their time."""
        return isinstance(self.root, Path)

    def files(self, below: str, suffix: str) -> list[str]:
        """Return the paths of all files below a folder of this one, in an order in which numbers count as such.

        What writers leave behind is left alone; see `is_leftover`.

        Raises:
            DataError: the file system does not answer, or refuses.
        """
        # Text, which for a hundred thousand files is several times smaller and faster than path objects.
        folder = PurePosixPath(self.root.as_posix()) / below
        names = [name for name in self._names(folder) if name.endswith(suffix) and not is_leftover(name)]
        return [f"{folder}/{name}" for name in sorted(names, key=_natural)]

    def contents(self) -> dict[str, list[int]]:
        """Return what shows that a file changed: its bytes and the nanoseconds of its last change, by relative path.

        Raises:
            DataError: the file system does not answer, or refuses.
        """
        folder = PurePosixPath(self.root.as_posix())
        files = {info.path.removeprefix(f"{folder}/"): info for info in self._listed(folder) if info.is_file}
        return {name: [files[name].size, files[name].mtime_ns or 0] for name in sorted(files)}

    def copy(self, name: str, target: Path) -> None:
        """Copy a file of `contents` to this machine.

        Raises:
            DataError: it cannot be read.
        """
        try:
            fs.copy_files(
                str(PurePosixPath(self.root.as_posix()) / name),
                str(target),
                source_filesystem=self.filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )
        except OSError as error:
            raise DataError(f"{self.shown}/{name} cannot be copied ({error}). Start again.") from error

    def _names(self, folder: PurePosixPath) -> list[str]:
        """Names of the files below a folder, relative to it."""
        if not self.is_local:
            return [info.path.removeprefix(f"{folder}/") for info in self._listed(folder) if info.is_file]
        # Arrow would follow links round a circle.
        return self._answered(lambda: files_below(Path(folder)) if Path(folder).exists() else [])

    def _listed(self, folder: PurePosixPath) -> list[fs.FileInfo]:
        selector = fs.FileSelector(str(folder), recursive=True, allow_not_found=True)
        return self._answered(lambda: self.filesystem.get_file_info(selector))

    def _answered(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except OSError as error:
            raise DataError(
                f"{self.shown} cannot be listed ({error}). Check the address, and that this machine may read it."
            ) from error

    def open(self, path: str | PurePath) -> pa.NativeFile:
        """Open a file for reading; OSError where that fails."""
        return self.filesystem.open_input_file(str(path))

    def partitions(self, path: str | PurePath) -> dict[str, str | None]:
        """Return the columns that a file's folders name; see `folder_columns`."""
        return folder_columns(PurePath(path).relative_to(self.root))


def open_folder(where: str | os.PathLike[str]) -> Folder:
    """Find the file system of a path or URI.

    A URI's query holds what its file system wants to know, as `s3://bucket/rows?region=eu-west-1` and
    `s3://bucket/rows?endpoint_override=localhost:9000&scheme=http` do; keys come from the environment.

    Raises:
        UsageError: no file system has this kind of address.
        DataError: the file system cannot be reached.

    >>> open_folder("data/encoded").root.as_posix(), open_folder("memory://data/encoded").root.as_posix()
    ('data/encoded', '/data/encoded')
    """
    text = os.fspath(where)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return Folder(fs.LocalFileSystem(), Path(text), text)
    shown = re.sub(r"//[^/@]*@", "//", text.split("?", 1)[0])
    if text.startswith("file://"):
        return Folder(fs.LocalFileSystem(), Path(unquote(text.removeprefix("file://"))), shown)
    try:
        filesystem, path = _arrow_filesystem(text) or _fsspec_filesystem(text)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"{shown} names no file system that can be read here ({error}). Expected a path, or a URI such as "
            "s3://bucket/folder; for other systems install the fsspec package that reads them."
        ) from error
    except OSError as error:
        raise DataError(f"{shown} cannot be reached ({error}). Check the address and the keys.") from error
    return Folder(filesystem, PurePosixPath(path), shown)


def _arrow_filesystem(uri: str) -> tuple[fs.FileSystem, str] | None:
    # Arrow's own come first: they read many ranges at once without holding Python's lock.
    scheme = uri.split("://", 1)[0]
    if scheme not in ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"):
        return None
    found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
    return found


def _fsspec_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return fs.PyFileSystem(_ExactReads(filesystem)), path


class _ExactReads(fs.FSSpecHandler):
    """Reads the ranges that are asked for and no more; fsspec would read megabytes ahead of every one."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")


def _natural(path: str) -> str:
    # One text a path, where a list of its parts would take a kilobyte: a split may have a hundred thousand files.
    return re.sub("[0-9]+", lambda digits: digits.group().zfill(20), path)
