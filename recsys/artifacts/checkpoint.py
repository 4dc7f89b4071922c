"""Checkpoints: a run at one step, as safetensors and JSON in a folder that is whole or absent.

    <folder>/step-00000200/rank-0.safetensors   what the first process held of weights and optimizer state
    <folder>/step-00000200/rank-0.json          how far loop and stream are
    <folder>/step-00000200/rank-1.safetensors   and so on, for each process that trained
    <folder>/step-00000200/manifest.json        written last: sizes and SHA-256 of all files, which piece of which
                                                tensor is in which file, the contract's tags, and its own digest

Neither format can carry code. Every byte is checked against its digest before anything is parsed. Any number of
processes may go on from what another number wrote; each reads what it is to hold.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError

from recsys.artifacts.checkpoint_storage import Described, read_divided, require_pieces, write_divided
from recsys.errors import CannotWriteError, DataError
from recsys.features.contract import FeatureContract, contract_tags, require_same_contract
from recsys.files import ensure_writable, fingerprint_of, published_directory, sha256_of_file, writing
from recsys.sharding.divided_state import DividedState
from recsys.sharding.processes import gathered

_MANIFEST, _FILE = "manifest.json", re.compile(r"rank-\d+\.(safetensors|json)")
_PREFIX = "step-"
_FORMAT = 3  # raise it when files or their keys change: a checkpoint of another one is refused, not guessed at
_SPARE_BYTES = 1 << 20  # for the JSON files and the folder's own entries


@dataclass(frozen=True)
class Checkpoint:
    """What was saved at one step, by however many processes; the tensors are still on the disk.

    Attributes:
        facts: as they were given to `save_checkpoint`.
        process: what the process of this rank gave beside them, or the last one where there were fewer.
    """

    step: int
    path: Path
    facts: dict[str, Any]
    process: dict[str, Any]
    _tensors: Described

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the whole tensors, by name."""
        return {name: tuple(each["shape"]) for name, each in self._tensors.items()}

    def read(self, into: DividedState) -> None:
        """Fill the pieces, of tensors that were saved and shaped as they were; every process calls it."""
        read_divided(into, self.path, self._tensors)


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: DividedState,
    facts: Mapping[str, Any],
    process: Mapping[str, Any],
    contract: FeatureContract,
    keep_last: int,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write one checkpoint, whole or not at all, then delete all but the `keep_last` newest.

    Every process calls it; each writes the pieces that it alone holds, and a share of what all have.

    Args:
        tensors: what this process holds, on the CPU.
        facts: plain JSON about the run; the first process's counts.
        process: plain JSON about this process.
        group: by which the processes speak meanwhile; nobody else may use it then.

    Raises:
        CannotWriteError: too little space or no permission; the checkpoints that are there are untouched.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    with ExitStack() as publishing:

        def begin(tensor_bytes: int) -> Path:
            _require_space(folder, tensor_bytes)
            return publishing.enter_context(published_directory(final))

        def finish(work: Path, files: Described, described: Described) -> None:
            manifest = {"format": _FORMAT, "step": step, "contract": contract_tags(contract)}
            manifest |= {"files": files, "tensors": described}
            # Its own digest as well: a changed digest of a file would otherwise pass a changed file.
            document = manifest | {"fingerprint": fingerprint_of(manifest)}
            (work / _MANIFEST).write_text(json.dumps(document), encoding="utf-8")
            publishing.close()  # it takes its name, and a failure of that is one of all processes
            # After the new one is whole on disk: a full disk or a crash leaves the old ones.
            for old in _found(folder)[:-keep_last]:
                shutil.rmtree(old)

        with writing(final):
            write_divided(tensors, json.dumps({"run": facts, "process": process}), begin, finish, group)


def newest_checkpoint(folder: Path, contract: FeatureContract, notice: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where none was ever written.

    Every process calls it, and each reads a share of the files to check them.

    Args:
        contract: of the data that the run goes on with.
        notice: called with one line per checkpoint that was passed over.

    Raises:
        DataError: the checkpoint was made under another contract, or there are checkpoints and none is whole: going
            on from nothing would silently throw the run away.
    """
    found = _found(folder)
    for position in range(len(found) - 1, -1, -1):
        path = found[position]
        try:
            checkpoint = _load(path, contract)
        except _NotWholeError as error:
            before = f"using {_step(found[position - 1])}" if position else "and there is none before it"
            notice(f"checkpoint step {_step(path)} incomplete ({error}), {before}")
            continue
        return checkpoint
    if found:
        raise DataError(
            f"None of the {len(found)} checkpoints in {folder} is whole. Move the folder away to start the run afresh."
        )
    return None


class _NotWholeError(Exception):
    """A checkpoint that is torn or was changed; the message says which file and how."""


def _load(path: Path, contract: FeatureContract) -> Checkpoint:
    manifest = _checked_manifest(path)
    # Before the files are parsed: no damaged byte reaches a parser.
    _each_file(path, manifest["files"], lambda name: _damage(path / name, manifest["files"][name]))
    if manifest["format"] != _FORMAT:
        raise DataError(
            f"Checkpoint {path} has format {manifest['format']}, and this version reads {_FORMAT}. Resume it with the "
            "version that wrote it, or start the run afresh."
        )
    require_same_contract(contract, manifest["contract"], f"Checkpoint {path}")
    # Whoever wrote the digests need not have written these formats, neither of which can carry code.
    _each_file(path, manifest["files"], lambda name: _other_format(path / name, manifest["tensors"]))
    ranks = sum(name.endswith(".json") for name in manifest["files"])
    own = min(dist.get_rank() if dist.is_initialized() else 0, ranks - 1)
    first, process = (json.loads((path / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in (0, own))
    return Checkpoint(manifest["step"], path, first["run"], process["process"], manifest["tensors"])


def _each_file(path: Path, files: Described, fault: Callable[[str], str | None]) -> None:
    """Look at every file once, this process at its share of them, and agree with the others on what was found.

    Raises:
        _NotWholeError: the first fault of all.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = {name: said for name in sorted(files)[rank::ranks] if (said := fault(name))}
    everywhere = {name: said for faults in gathered(mine) for name, said in faults.items()}
    if everywhere:
        raise _NotWholeError(everywhere[min(everywhere)])


def _damage(file: Path, described: Mapping[str, Any]) -> str | None:
    if not file.is_file():
        return f"no {file.name}"
    if file.stat().st_size != described["bytes"] or sha256_of_file(file) != described["sha256"]:
        return f"sha256 mismatch in {file.name}"
    return None


def _other_format(file: Path, tensors: Described) -> str | None:
    try:
        if _FILE.fullmatch(file.name) is None:
            raise ValueError(f"{file.name} is none of a checkpoint's files")
        if file.suffix == ".json":
            document = json.loads(file.read_text(encoding="utf-8"))
            if {type(document[key]) for key in ("run", "process")} != {dict}:
                raise ValueError(f"{file.name} holds no facts")
        else:
            require_pieces(file, tensors)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        return f"files of another format: {error}"
    return None


def _checked_manifest(path: Path) -> dict[str, Any]:
    try:
        text = (path / _MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _NotWholeError("no manifest") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _NotWholeError(f"sha256 mismatch in {_MANIFEST}") from error
    try:
        document = json.loads(text)
        found = document.pop("fingerprint")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise _NotWholeError(f"sha256 mismatch in {_MANIFEST}") from error
    if fingerprint_of(document) != found:
        raise _NotWholeError(f"sha256 mismatch in {_MANIFEST}")
    manifest: dict[str, Any] = document
    return manifest


def _found(folder: Path) -> list[Path]:
    """Return the published checkpoints, oldest first; unfinished ones have names of another form."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.is_dir() and path.name[len(_PREFIX) :].isdigit()]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name[len(_PREFIX) :])


def _require_space(folder: Path, tensor_bytes: int) -> None:
    ensure_writable(folder)
    free = shutil.disk_usage(folder).free
    if free < tensor_bytes + _SPARE_BYTES:
        raise CannotWriteError(
            f"A checkpoint needs {tensor_bytes + _SPARE_BYTES:,} bytes in {folder}, and {free:,} are free. Free some "
            "space, or keep fewer checkpoints (`training.keep_checkpoints`)."
        )
