"""Checkpoints: a run at one step, as safetensors and JSON in a folder that is whole or absent.

    <folder>/step-00000200/tensors.safetensors   weights, optimizer state, random generators
    <folder>/step-00000200/facts.json            how far loop and stream are
    <folder>/step-00000200/manifest.json         sizes and SHA-256 of both, the contract's tags, and its own digest

Neither format can carry code. Every byte is checked against its digest before anything is parsed.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.errors import CannotWriteError, DataError
from recsys.features.contract import FeatureContract, contract_tags, require_same_contract
from recsys.files import ensure_writable, fingerprint_of, published_directory, sha256_of_file

_TENSORS, _FACTS, _MANIFEST = "tensors.safetensors", "facts.json", "manifest.json"
_PREFIX = "step-"
_FORMAT = 2  # raise it when files or their keys change: a checkpoint of another one is refused, not guessed at
_SPARE_BYTES = 1 << 20  # for the JSON files and the folder's own entries


@dataclass(frozen=True)
class Checkpoint:
    """What was saved at one step, as it was given to `save_checkpoint`."""

    step: int
    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    contract: FeatureContract,
    keep_last: int,
) -> Path:
    """Write one checkpoint, whole or not at all, then delete all but the `keep_last` newest; return its path.

    Args:
        tensors: by name, of any shape.

    Raises:
        CannotWriteError: too little space or no permission; the checkpoints that are there are untouched.
    """
    _require_space(folder, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    final = folder / f"{_PREFIX}{step:08d}"
    with published_directory(final) as work:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, work / _TENSORS)
        (work / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        manifest = {
            "format": _FORMAT,
            "step": step,
            "contract": contract_tags(contract),
            "files": {name: _described(work / name) for name in (_TENSORS, _FACTS)},
        }
        # Its own digest as well: a changed digest of a file would otherwise pass a changed file.
        document = manifest | {"fingerprint": fingerprint_of(manifest)}
        (work / _MANIFEST).write_text(json.dumps(document, indent=2), encoding="utf-8")
    # After the new one is whole on disk: a full disk or a crash leaves the old ones.
    for old in _found(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def load_latest_complete(folder: Path, contract: FeatureContract, notice: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where none was ever written.

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
    for name, described in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise _NotWholeError(f"no {name}")
        if file.stat().st_size != described["bytes"] or sha256_of_file(file) != described["sha256"]:
            raise _NotWholeError(f"sha256 mismatch in {name}")
    if manifest["format"] != _FORMAT:
        raise DataError(
            f"Checkpoint {path} has format {manifest['format']}, and this version reads {_FORMAT}. Resume it with the "
            "version that wrote it, or start the run afresh."
        )
    require_same_contract(contract, manifest["contract"], f"Checkpoint {path}")
    try:
        facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
        tensors = load_file(path / _TENSORS)
    except (ValueError, SafetensorError) as error:
        # Whoever wrote the digests did not write these formats, neither of which can carry code.
        raise _NotWholeError(f"files of another format: {error}") from error
    return Checkpoint(manifest["step"], path, tensors, facts)


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


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_of_file(file)}


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
