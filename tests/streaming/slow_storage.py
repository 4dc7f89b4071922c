"""A folder whose every request takes its time, as one over a network does, and that keeps count of the requests."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from recsys.streaming.storage import Folder


class SlowStorage(fs.FileSystemHandler):
    """A local folder behind requests: opening a file is one, and so is reading a range of it.

    Attributes:
        requests: (file, first byte or None for opening, bytes) of every one, in the order in which they ended.
        most_at_once: most requests that were under way together.
    """

    def __init__(self, root: Path, delay_seconds: float) -> None:
        self._root, self._delay = root, delay_seconds
        self.requests: list[tuple[str, int | None, int]] = []
        self.most_at_once = self._under_way = 0
        self._lock = threading.Lock()

    @property
    def folder(self) -> Folder:
        """The folder as a stream sees it."""
        return Folder(fs.PyFileSystem(self), PurePosixPath("/bucket"), "slow://bucket")

    @contextlib.contextmanager
    def request(self, name: str, start: int | None, size: int) -> Iterator[None]:
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        time.sleep(self._delay)
        yield
        with self._lock:
            self._under_way -= 1
            self.requests.append((name, start, size))

    def open_input_file(self, path: str) -> pa.PythonFile:
        name = path.removeprefix("/bucket/")
        with self.request(name, None, 0):
            return pa.PythonFile(_SlowFile(self, name, self._root / name), mode="r")

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        below = self._root / selector.base_dir.removeprefix("/bucket").strip("/")
        names = [path.relative_to(self._root).as_posix() for path in below.rglob("*") if path.is_file()]
        return [fs.FileInfo(f"/bucket/{name}", fs.FileType.File) for name in names]

    def __eq__(self, other: object) -> bool:
        return self is other

    def get_type_name(self) -> str:
        return "slow"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        raise NotImplementedError

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = copy_file = (
        open_input_stream) = open_output_stream = open_append_stream = get_file_info  # fmt: skip


class _SlowFile:
    def __init__(self, storage: SlowStorage, name: str, path: Path) -> None:
        self._storage, self._name = storage, name
        self._file = path.open("rb")
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        with self._storage.request(self._name, self._file.tell(), size):
            return self._file.read(size)

    def seek(self, *where: Any) -> int:
        return self._file.seek(*where)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self.closed = True
        self._file.close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        return None
