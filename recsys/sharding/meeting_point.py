"""Where the processes of a job meet: the launcher's key-value store, and a corner of it for this start alone.

torchrun keeps one store for all restarts of a job. What an earlier start left in it, such as the addresses of processes
that have died, would be taken for this start's, and a restarted job would never meet. (torch's own `env://` does so in
version 2.13, and a count of restarts is no remedy: it differs between nodes where one of them failed.) So the first
process draws a token, hands it to each of the others in answer to a number of theirs, and all keep to the keys that
begin with it. Outside of that corner lies what one start of a job leaves for the next.
"""

import os
import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistNetworkError, DistStoreError

from recsys.errors import ServiceError

_POLL_SECONDS = 0.02
_job: Store | None = None


def meet(rank: int, world_size: int, timeout: timedelta) -> Store:
    """Return a store that every process of this start has in common, and none of an earlier one.

    Raises:
        ServiceError: the launcher's store cannot be reached, or the others do not come within the time-out.
    """
    global _job
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent keeps the store; where variables are set in another way, the first process does.
    is_keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    try:
        _job = TCPStore(address, port, is_master=is_keeper, timeout=timeout, wait_for_workers=False)
        token = _draw(_job, world_size, timeout) if rank == 0 else _ask(_job, rank, timeout)
    except (DistNetworkError, DistStoreError) as error:
        raise ServiceError(
            f"Process {rank} of {world_size} cannot reach the job's store at {address}:{port} (MASTER_ADDR, "
            f"MASTER_PORT): {str(error).splitlines()[0]}. Check the address, and that the first process's machine lets "
            "the others in."
        ) from error
    return PrefixStore(token, _job)


def left_by_earlier_start(key: str) -> str:
    """What an earlier start of this job left under a key; empty where there was none, or the store died with it."""
    if _job is None or not _job.check([_kept(key)]):
        return ""
    return bytes(_job.get(_kept(key))).decode()


def leave_for_later_starts(key: str, text: str) -> None:
    """Leave a text for starts of this job that may follow; nothing happens in a run that no launcher started."""
    if _job is not None:
        _job.set(_kept(key), text)


def wait_until(is_so: Callable[[], bool], timeout: timedelta | None = None) -> bool:
    """Wait until it is so, by asking now and then, so that signals are heard meanwhile; False where time ran out."""
    ends = None if timeout is None else time.monotonic() + timeout.total_seconds()
    pause = _POLL_SECONDS
    while not is_so():
        if ends is not None and time.monotonic() > ends:
            return False
        time.sleep(pause)
        pause = min(0.5, 1.2 * pause)
    return True


def _draw(store: Store, world_size: int, timeout: timedelta) -> str:
    token, answered = secrets.token_hex(4), dict[int, bytes]()

    def all_have_it() -> bool:
        for other in range(1, world_size):
            # A number may be that of an earlier start: whoever is here now asks anew.
            if store.check([_number(other)]) and (number := bytes(store.get(_number(other)))) != answered.get(other):
                store.set(_answer(other, number.decode()), token)
                answered[other] = number
        return all(store.check([_thanks(token, other)]) for other in range(1, world_size))

    if not wait_until(all_have_it, timeout):
        absent = [other for other in range(1, world_size) if not store.check([_thanks(token, other)])]
        raise ServiceError(
            f"Of {world_size} processes {len(absent)} did not come within {timeout.total_seconds():g} s: number "
            f"{', '.join(map(str, absent[:8]))}. Their own messages say why; `runtime.exchange_seconds` is how long "
            "they are waited for."
        )
    return token


def _ask(store: Store, rank: int, timeout: timedelta) -> str:
    number = secrets.token_hex(4)
    store.set(_number(rank), number)
    if not wait_until(lambda: store.check([_answer(rank, number)]), timeout):
        raise ServiceError(
            f"Process {rank} waited {timeout.total_seconds():g} s for the first process, which did not answer. Its own "
            "message says why; `runtime.exchange_seconds` is how long it is waited for."
        )
    token = bytes(store.get(_answer(rank, number))).decode()
    store.set(_thanks(token, rank), "1")
    return token


def _kept(key: str) -> str:
    return f"recsys/kept/{key}"


def _number(rank: int) -> str:
    return f"recsys/number/{rank}"


def _answer(rank: int, number: str) -> str:
    return f"recsys/answer/{rank}/{number}"


def _thanks(token: str, rank: int) -> str:
    return f"recsys/thanks/{token}/{rank}"
