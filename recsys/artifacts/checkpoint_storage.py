"""How `torch.distributed.checkpoint` (DCP) plans, writes and reads our checkpoints: safetensors and JSON, no pickle.

DCP says which process writes what (each the pieces that it alone holds, and a share of what all have), gathers what
was written before the first process finishes, and computes which parts of which files a process reads, also where there
are more or fewer of them than wrote. Its own files would be unpickled, and each process would read every tensor whole
of which it needs a row; these cannot carry code, and parts of a tensor are read by themselves.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from recsys.errors import CannotWriteError, DataError
from recsys.files import flush_file, sha256_of_file
from recsys.sharding.divided_state import DividedState, Piece

_READ_BYTES = 1 << 26  # of one tensor at a time: what a process has of it beside where it goes

Described = dict[str, dict[str, Any]]
"""By file: `bytes` and `sha256`. By tensor: `dtype`, `shape`, and as `pieces` each one's offsets, sizes and file."""


def write_divided(
    state: DividedState,
    facts: str,
    begin: Callable[[int], Path],
    finish: Callable[[Path, Described, Described], None],
    group: dist.ProcessGroup | None,
) -> None:
    """Write what the processes hold, each its own files, `rank-<rank>.safetensors` and `rank-<rank>.json`.

    Every process calls it; where one fails, all raise what that one did.

    Args:
        facts: this process's JSON.
        begin: called in the first process with the bytes of all tensors; returns the folder to write into.
        finish: called in the first process with that folder, files and tensors, once all files of all processes are
            on the disk.
    """
    with _as_it_was_raised():
        save(
            dict(state),
            storage_writer=_PieceWriter(facts, begin, finish),
            planner=_PieceSavePlanner(),
            process_group=group,
        )


def read_divided(state: DividedState, folder: Path, tensors: Described) -> None:
    """Fill the pieces of `state` with those parts of the tensors, shaped as they are, that belong there.

    Every process calls it, with what it is to hold.

    Raises:
        DataError: a part was not saved.
    """
    with _as_it_was_raised():
        load(dict(state), storage_reader=_PieceReader(folder, tensors), planner=_PieceLoadPlanner())


def require_pieces(file: Path, tensors: Described) -> None:
    """Let pass a file whose header has all the pieces, of those shapes, that are said to be in it.

    Raises:
        ValueError, SafetensorError: it has not.
    """
    with safe_open(file, framework="pt") as opened:
        for name, described in tensors.items():
            for offsets, sizes, place in described["pieces"]:
                if place == file.name and opened.get_slice(_key(name, offsets)).get_shape() != sizes:
                    raise ValueError(f"`{name}` has another shape than {sizes}")


class _PieceSavePlanner(DefaultSavePlanner):
    """Plans to write every piece; one that several processes hold is written by one of them."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        items = []
        for name, each in self.state_dict.items():
            properties, size = TensorProperties(dtype=each.dtype), torch.Size(each.shape)
            for piece in each.pieces:
                data = TensorWriteData(_chunk(piece), properties, size)
                items.append(WriteItem(_index(name, piece), WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return _found(self.state_dict, index)


class _PieceLoadPlanner(DefaultLoadPlanner):
    """Plans to fill every piece out of those that overlap with it."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        assert metadata is not None
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items: list[ReadItem] = []
        for name, each in self.state_dict.items():
            saved = self.metadata.state_dict_metadata[name]
            assert isinstance(saved, TensorStorageMetadata)
            planned = create_read_items_for_chunk_list(name, saved, [_chunk(piece) for piece in each.pieces])
            needed = sum(piece.tensor.numel() for piece in each.pieces)
            if (found := sum(math.prod(item.lengths) for item in planned)) != needed:
                raise DataError(f"The checkpoint holds {found:,} of the {needed:,} numbers of `{name}` needed here.")
            items += planned
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return _found(self.state_dict, index)


class _PieceWriter(StorageWriter):
    """Writes one file of tensors and one of facts for each process."""

    def __init__(
        self,
        facts: str,
        begin: Callable[[int], Path],
        finish: Callable[[Path, Described, Described], None],
    ) -> None:
        self._facts, self._begin, self._finish = facts, begin, finish
        self._folder = Path()

    def reset(self, checkpoint_id: Any = None) -> None:
        """Each one writes a single checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing is open yet: the first process says where."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self._folder = self._begin(sum(_bytes_of(item) for plan in plans for item in plan.items))
        return [replace(plan, storage_data=str(self._folder)) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        folder, rank = Path(plan.storage_data), dist.get_rank() if dist.is_initialized() else 0
        if not folder.is_dir():
            raise CannotWriteError(
                f"Process {rank} does not find {folder}, which the first process made for this checkpoint. Let "
                "`runtime.runs` be on storage that all machines share."
            )
        tensors, facts = folder / f"rank-{rank}.safetensors", folder / f"rank-{rank}.json"
        named = {_key(item.index.fqn, item.index.offset or ()): planner.resolve_data(item) for item in plan.items}
        save_file({key: each.contiguous() for key, each in named.items() if isinstance(each, Tensor)}, tensors)
        facts.write_text(self._facts, encoding="utf-8")
        results = [WriteResult(item.index, _bytes_of(item), tensors.name) for item in plan.items]
        for file in (tensors, facts):
            flush_file(file)  # here, as another machine's writes are not the first process's to flush
            results.append(WriteResult(MetadataIndex(file.name), file.stat().st_size, sha256_of_file(file)))
        written: Future[list[WriteResult]] = Future()
        written.set_result(results)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: Described = {}
        places: dict[MetadataIndex, str] = {}
        for result in chain.from_iterable(results):
            if result.index.offset is None:
                files[result.index.fqn] = {"bytes": result.size_in_bytes, "sha256": result.storage_data}
            else:
                places[result.index] = result.storage_data
        tensors: Described = {}
        for name, each in metadata.state_dict_metadata.items():
            assert isinstance(each, TensorStorageMetadata)
            pieces = [[[*c.offsets], [*c.sizes], places[MetadataIndex(name, c.offsets)]] for c in each.chunks]
            tensors[name] = {"dtype": str(each.properties.dtype), "shape": [*each.size], "pieces": pieces}
        self._finish(self._folder, files, tensors)


class _PieceReader(StorageReader):
    """Reads parts of what a `_PieceWriter` wrote, straight into their places."""

    def __init__(self, folder: Path, tensors: Described) -> None:
        self._folder, self._tensors = folder, tensors
        self._places = {
            MetadataIndex(name, offsets): place
            for name, each in tensors.items()
            for offsets, _, place in each["pieces"]
        }

    def reset(self, checkpoint_id: Any = None) -> None:
        """Each one reads a single checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        def described(each: dict[str, Any]) -> TensorStorageMetadata:
            chunks = [ChunkStorageMetadata(torch.Size(start), torch.Size(sizes)) for start, sizes, _ in each["pieces"]]
            return TensorStorageMetadata(TensorProperties(), torch.Size(each["shape"]), chunks)

        return Metadata({name: described(each) for name, each in self._tensors.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All was checked before."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self._places[item.storage_index]].append(item)
        for name, items in by_file.items():
            with safe_open(self._folder / name, framework="pt") as file:
                for item in items:
                    target = planner.resolve_tensor(item).detach()
                    key = _key(item.storage_index.fqn, item.storage_index.offset or ())
                    if not item.lengths:
                        target.copy_(file.get_tensor(key))
                        continue
                    saved = file.get_slice(key)
                    for first, last in _blocks(target):
                        start, *others = zip(item.storage_offsets, item.lengths, strict=True)
                        columns = [slice(offset, offset + length) for offset, length in others]
                        target[first:last].copy_(saved[(slice(start[0] + first, start[0] + last), *columns)])
        read: Future[None] = Future()
        read.set_result(None)
        return read


@contextmanager
def _as_it_was_raised() -> Iterator[None]:
    """Within it a failure of any process, which DCP wraps in something of its own, is raised as what it is."""
    try:
        yield
    except CheckpointException as error:
        failure, _ = error.failures[min(error.failures)]
        raise failure from None


def _blocks(target: Tensor) -> Iterator[tuple[int, int]]:
    """Rows of a tensor, from the first to before the last, of at most `_READ_BYTES` or one row."""
    rows = target.shape[0]
    step = max(1, _READ_BYTES * rows // max(1, target.nbytes))
    for first in range(0, rows, step):
        yield first, min(rows, first + step)


def _found(state: Mapping[str, Any], index: MetadataIndex) -> Tensor:
    tensor: Tensor = next(piece.tensor for piece in state[index.fqn].pieces if _index(index.fqn, piece) == index)
    return tensor


def _index(name: str, piece: Piece) -> MetadataIndex:
    return MetadataIndex(name, torch.Size(piece.offsets))


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(piece.offsets), piece.tensor.size())


def _bytes_of(item: WriteItem) -> int:
    data = item.tensor_data
    assert data is not None
    return math.prod(data.chunk.sizes) * data.properties.dtype.itemsize


def _key(name: str, offsets: Any) -> str:
    """What a piece is called in its file: no two pieces are called the same."""
    return f"{name} {tuple(offsets)}"
