"""The process group of a run: one process by itself, or one of those that torchrun started.

A run of one process is a group of one, so that there is a single training path. Its store lives in the process's own
memory: it opens no port, and any number of runs can start on one machine at the same moment.
"""

import ctypes
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from recsys.errors import UsageError
from recsys.sharding.meeting_point import meet

# glibc's malloc.h: options of mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_TIMEOUT = timedelta(minutes=10)
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
"""What may be wished for as the device: a GPU where there is one, no GPU although there is one, a GPU or nothing."""


@dataclass(frozen=True)
class ProcessContext:
    """Which process this is, of how many, and the device that it computes on.

    >>> ProcessContext(rank=0, world_size=1, device=torch.device("cpu")).is_first
    True
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0


def start_processes(wished: str, timeout: timedelta = _TIMEOUT) -> ProcessContext:
    """Join torchrun's process group, or start a group of one; a group that there is already is used as it is.

    NCCL where a GPU computes, gloo otherwise.

    Args:
        wished: the device: "auto", "cpu" or "cuda".
        timeout: how long processes wait for one another, to begin and in every exchange.

    Raises:
        UsageError: torchrun's variables are half set, or name more processes than the machine has GPUs, or a GPU is
            wished for where there is none.
        ServiceError: the other processes cannot be reached.
    """
    kind = device_kind(wished)
    # TorchRec trips a deprecation line of torch.fx's on every first forward pass; it means nothing to our users.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    _keep_freed_memory()
    if not dist.is_initialized():
        if is_started_by_torchrun(os.environ):
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store = meet(rank, size, timeout)
            dist.init_process_group(_backend(kind), store=store, rank=rank, world_size=size, timeout=timeout)
        else:
            dist.init_process_group(_backend(kind), store=HashStore(), rank=0, world_size=1)
    device = _device(kind)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return ProcessContext(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)


def device_kind(wished: str) -> str:
    """Return what is computed on, "cpu" or "cuda", where "auto", "cpu" or "cuda" is wished for.

    Raises:
        UsageError: "cuda" where no GPU can be used; says what was found.
    """
    if wished == CPU:
        return CPU
    if torch.cuda.is_available():
        return CUDA
    if wished == CUDA:
        raise UsageError(
            f"`runtime.device` is cuda, but {why_no_gpu()}. Set runtime.device=auto, or cpu, and leave out trainer=gpu."
        )
    return CPU


def local_processes() -> int:
    """How many processes of the run share this machine: as torchrun says, or one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Which of the run's processes on this machine this one is, from 0: as torchrun says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def why_no_gpu() -> str:
    """Say what was found instead of a GPU."""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} was built without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"torch {torch.__version__} sees no GPU, with CUDA_VISIBLE_DEVICES={visible!r}"
    return f"torch {torch.__version__} sees no GPU; `nvidia-smi` says whether the driver does"


def gpus(wished: str) -> int:
    """How many GPUs processes may be given, as `device_kind` finds them; 0 where the CPU computes."""
    return torch.cuda.device_count() if device_kind(wished) == CUDA else 0


def device_name(device: torch.device) -> str:
    """What a run's record calls the device: "cpu", or the GPU's kind and model as in "cuda (NVIDIA H100)"."""
    return CPU if device.type == CPU else f"{device.type} ({torch.cuda.get_device_name(device)})"


def stop_processes() -> None:
    """Leave the process group; a no-op where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def draw_apart(context: ProcessContext, seed: int) -> None:
    """Give every process but the first random numbers of its own, after all have drawn the same weights.

    Each has other rows, for which dropout must draw other masks.

    Args:
        seed: the run's, below 2 ** 32.
    """
    if not context.is_first:
        # A CPU's generator reads 32 bits of its seed; 2 ** 32 over the golden ratio keeps ranks and seeds far apart.
        torch.manual_seed((seed + 0x9E3779B9 * context.rank) % 2**32)


def gathered(mine: Any) -> list[Any]:
    """Return what every process passed, by rank; its own alone where there is no group. Every process calls it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [mine]
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def group_beside() -> dist.ProcessGroup:
    """Make a gloo group of all processes apart from that of the steps, with its time-out. Every process calls it."""
    steps = dist.distributed_c10d._get_default_group()._get_backend(torch.device(CPU))
    # torch would give it half an hour, whatever the group of the steps was given.
    return dist.new_group(backend="gloo", timeout=steps.options._timeout)


def any_process(is_so: bool, context: ProcessContext) -> bool:
    """Return whether it is so in any process. Every process calls it."""
    if context.world_size == 1:
        return is_so
    flag = torch.tensor(int(is_so))  # on the CPU: the host knows, and the device need not be waited for
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def reads_without_waiting(device: torch.device) -> bool:
    """Whether the host may read a tensor there at once: on a CPU. On a GPU it would wait for all that is queued."""
    return device.type == CPU


def wait_for_device(device: torch.device) -> None:
    """Wait for what is queued on a GPU's current stream; a CPU queues nothing."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _keep_freed_memory() -> None:
    """Let the C library keep freed blocks of up to 32 MiB for the next ones, and at most 256 MiB at the heap's end.

    It would give the pages of every activation back to the system and ask for fresh ones in the next step: 13 % of a
    CPU training step with layers of 700 numbers and batches of 4096. Other C libraries have no such call.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        library.mallopt(_TRIM_THRESHOLD, 256 * 2**20)


def is_started_by_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether torchrun's five variables are set.

    Raises:
        UsageError: RANK is set and others are not: a group of one would silently train the wrong thing.
    """
    missing = [name for name in _TORCHRUN if name not in environment]
    if missing and "RANK" in environment:
        raise UsageError(
            f"RANK is set to {environment['RANK']}, but {', '.join(missing)} is not. Start several processes with "
            "`torchrun --nproc-per-node N`, or unset RANK to run one."
        )
    return not missing


def _backend(kind: str) -> str:
    # Small host-side facts (who stops, which batch was bad) travel by gloo even where tensors travel by NCCL.
    return "cpu:gloo,cuda:nccl" if kind == CUDA else "gloo"


def _device(kind: str) -> torch.device:
    if kind == CPU:
        return torch.device(CPU)
    if local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"Process {local_rank()} of this machine has no GPU of its own: {torch.cuda.device_count()} found. Start "
            f"torchrun with --nproc-per-node {torch.cuda.device_count()}."
        )
    return torch.device(CUDA, local_rank())
