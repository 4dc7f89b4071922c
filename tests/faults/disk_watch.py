"""Every write, fsync and rename of a process below a folder, seen from outside, and a kill at any of them.

The kernel stops the process at each such system call and asks here (`seccomp`'s user notification), whichever library
made it: Python, Arrow, DuckDB, SQLite, safetensors; in all of its threads and in what it starts. Linux only.
"""

import ctypes
import fcntl
import os
import platform
import re
import select
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

# From <asm/unistd.h>: name -> number, and from <linux/seccomp.h> and <linux/bpf_common.h>.
_NUMBERS = {
    "x86_64": {
        "write": 1,
        "pwrite64": 18,
        "writev": 20,
        "pwritev": 296,
        "sendfile": 40,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "rename": 82,
        "renameat": 264,
        "renameat2": 316,
        "seccomp": 317,
    },
    "aarch64": {
        "write": 64,
        "pwrite64": 68,
        "writev": 66,
        "pwritev": 70,
        "sendfile": 71,
        "fsync": 82,
        "fdatasync": 83,
        "ftruncate": 46,
        "renameat": 38,
        "renameat2": 276,
        "seccomp": 277,
    },
}
_PATHS = {"rename": (0, 1), "renameat": (1, 3), "renameat2": (1, 3)}  # which arguments are names
_NO_NEW_PRIVILEGES, _SET_FILTER, _NEW_LISTENER = 38, 1, 8
_LOAD, _JUMP_IF_EQUAL, _RETURN, _ALLOW, _NOTIFY = 0x20, 0x15, 0x06, 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _GO_ON = 0xC0502100, 0xC0182101, 1
_NOTICE, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
# What differs between two runs of the same work: keys, random names, moments.
_CHANCE = re.compile(
    r"\d{8}-\d{6}-[0-9a-f]{12}|[0-9a-f]{8,}|\.tmp\w{6}|(?<=/tmp)\w{8}|(?<=\.database\.)\w{8}|(?<=\.uploading\.)\w{8}|_\d+\.tmp"
)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _numbers() -> dict[str, int]:
    return _NUMBERS[platform.machine()]


def let_watch(place: Path) -> None:
    """Let the `DiskWatch` that listens at `place` see every write of this process from now on."""
    numbers = [number for name, number in _numbers().items() if name != "seccomp"]
    program = [_Instruction(_LOAD, 0, 0, 0)]
    # A jump over those that are left, and over the line that allows all others.
    program += [_Instruction(_JUMP_IF_EQUAL, len(numbers) - at, 0, each) for at, each in enumerate(numbers)]
    program += [_Instruction(_RETURN, 0, 0, _ALLOW), _Instruction(_RETURN, 0, 0, _NOTIFY)]
    lines = (_Instruction * len(program))(*program)
    kernel = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        program_of = ctypes.byref(_Program(len(program), lines))
        listener = kernel.syscall(_numbers()["seccomp"], _SET_FILTER, _NEW_LISTENER, program_of)
        if listener < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        socket.send_fds(connection, [b"."], [listener])
        os.close(listener)


class DiskWatch:
    """Where the watched processes of one folder ask; a context.

    Args:
        root: of what lies elsewhere nothing is told.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root.resolve()}/"
        self._folder = tempfile.TemporaryDirectory()
        self.place = Path(self._folder.name) / "watch"
        self._server = socket.socket(socket.AF_UNIX)
        self._names = {number: name for name, number in _numbers().items()}

    def __enter__(self) -> "DiskWatch":
        self._server.bind(str(self.place))
        self._server.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._folder.cleanup()

    def follow(self, process: int, is_last: Callable[[str], bool]) -> bool:
        """Let the process write until it ends; return whether it was killed.

        Args:
            is_last: asked before each write with what it is, such as "rename runs/x/result.json"; where it says so, the
                process is killed, and the write does not happen.
        """
        with self._listener() as listener:
            is_killed = False
            for notice, what in self._notices(listener):
                if what and not is_killed and is_last(what):
                    os.kill(process, signal.SIGKILL)
                    is_killed = True
                with suppress(OSError):  # whoever asked may be dead
                    fcntl.ioctl(listener, _SEND, _ANSWER.pack(notice, 0, 0, _GO_ON))
            return is_killed

    @contextmanager
    def _listener(self) -> Iterator[int]:
        connection, _ = self._server.accept()
        with connection:
            _, (listener, *_), _, _ = socket.recv_fds(connection, 1, 1)
        try:
            yield listener
        finally:
            os.close(listener)

    def _notices(self, listener: int) -> Iterator[tuple[int, str]]:
        waiting = select.poll()
        waiting.register(listener, select.POLLIN)
        while True:
            ((_, event),) = waiting.poll()
            if not event & select.POLLIN:
                return  # every process that could ask has ended
            buffer = bytearray(_NOTICE.size)
            with suppress(FileNotFoundError):  # it died while it asked
                fcntl.ioctl(listener, _RECEIVE, buffer)
                notice, thread, _, number, _, _, *arguments = _NOTICE.unpack(buffer)
                yield notice, self._told(thread, self._names[number], arguments)

    def _told(self, thread: int, name: str, arguments: Sequence[int]) -> str:
        """What a call does below the root, chance names left out; empty for one elsewhere."""
        try:
            if places := _PATHS.get(name):
                paths = [_text_at(thread, arguments[place]) for place in places]
            else:
                paths = [os.readlink(f"/proc/{thread}/fd/{arguments[0]}")]
        except OSError:
            return ""
        if not any(path.startswith(self._root) for path in paths):
            return ""
        return " ".join([name, *(_CHANCE.sub("#", path.removeprefix(self._root)) for path in paths)])


def _text_at(thread: int, address: int) -> str:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        text = b""
        # Not past the end of a page: the next one may not be there.
        while b"\0" not in text and (part := memory.read(4096 - (address + len(text)) % 4096)):
            text += part
    return os.fsdecode(text.partition(b"\0")[0])
