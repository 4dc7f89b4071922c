"""Work that one process does for all: the first does it, the others wait, and its result or its error reaches them.

They wait at a key of the group's store and not in a collective, whose time-out a long preparation would exceed.
"""

import json
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from recsys.errors import RecsysError
from recsys.sharding.meeting_point import wait_until

_Told = TypeVar("_Told")
_turns = count()


def processes() -> int:
    """How many processes there are; 1 where there is no group yet."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return 0 if processes() == 1 else dist.get_rank()


def is_first() -> bool:
    """Whether this process is the one that writes files and reports."""
    return rank() == 0


def by_first(work: Callable[[], _Told]) -> _Told:
    """Let the first process do the work, and return its result in every process. Every process calls it.

    Args:
        work: its result is JSON-able.

    Raises:
        RecsysError: of the kind, and with the message, that the work ended with in the first process.
    """
    if processes() == 1:
        return work()
    if not is_first():
        told: _Told = heard()
        return told
    try:
        result = work()
    except Exception as error:
        tell_failure(error)
        raise
    tell(result)
    return result


def tell(what: Any) -> None:
    """Tell the other processes something JSON-able, each of which hears it by `heard`; the first process calls it."""
    _get_default_store().set(_key(), json.dumps({"told": what}))


def tell_failure(error: Exception) -> None:
    """Tell the other processes that the first one failed, in place of what they wait to hear."""
    code = error.exit_code if isinstance(error, RecsysError) else RecsysError.exit_code
    says = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"
    _get_default_store().set(_key(), json.dumps({"code": code, "says": says}))


def heard() -> Any:
    """Wait for what the first process tells next, and return it; every other process calls it.

    Raises:
        RecsysError: what the first process failed with.
    """
    store, key = _get_default_store(), _key()
    wait_until(lambda: store.check([key]))
    document = json.loads(bytes(store.get(key)))
    if "told" in document:
        return document["told"]
    kinds = {kind.exit_code: kind for kind in RecsysError.__subclasses__() if kind.exit_code != RecsysError.exit_code}
    raise kinds.get(document["code"], RecsysError)(f"The first process ended: {document['says']}")


def wait_for_all() -> None:
    """Let the first process wait until every other has come here, for as long as it takes. Every process calls it."""
    if processes() == 1:
        return
    store, key = _get_default_store(), _key()
    if is_first():
        others = [f"{key}/{other}" for other in range(1, processes())]
        wait_until(lambda: all(store.check([other]) for other in others))
    else:
        store.set(f"{key}/{rank()}", "1")


def _key() -> str:
    # All processes count alike, as all of them come by the same places in the same order.
    return f"recsys/turn/{next(_turns)}"
