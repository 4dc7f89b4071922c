"""Digests of what a run started from and read first, by which a study checks that two runs were a pair."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recsys.ablation.pairing import RunRecord
from recsys.features.batch import Batch
from recsys.files import fingerprint_of
from recsys.sharding.processes import gathered
from recsys.sharding.state_digests import whole_digests
from recsys.streaming.loader import BatchStream
from recsys.training.loop import LoopState

_FIRST_BATCHES = 16
_DIGITS = 16


class WatchedStream:
    """A stream that keeps a digest of each of the first batches that it handed out."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self._before: list[str] = []  # of all processes' batches, by the parts of the run before this one
        self._own: list[str] = []  # of this process's batches since

    @property
    def epoch(self) -> int:
        """The stream's."""
        return self._stream.epoch

    @property
    def wait_seconds(self) -> float:
        """The stream's."""
        return self._stream.wait_seconds

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._stream:
            if len(self._before) + len(self._own) < _FIRST_BATCHES:
                self._own.append(_batch_digest(batch))
            yield batch

    def seen(self) -> list[str]:
        """The digests, of at most 16 steps' batches from the run's beginning. Every process calls it.

        Where several processes take a step, its digest is that of their batches' digests.
        """
        of_steps = zip(*gathered(self._own), strict=True)
        return self._before + [each[0] if len(each) == 1 else fingerprint_of(each) for each in of_steps]

    def state_dict(self) -> dict[str, Any]:
        """The stream's, and the digests. Every process calls it."""
        return self._stream.state_dict() | {"first_batches": self.seen()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self._before, self._own = list(state["first_batches"]), []
        self._stream.load_state_dict({name: value for name, value in state.items() if name != "first_batches"})


class StartOfRun:
    """What a run starts from; made before anything of a checkpoint is loaded.

    Args:
        ranker: with the weights that its seed and its tower give it.
        stream: at its beginning.
    """

    def __init__(self, ranker: nn.Module, stream: BatchStream) -> None:
        self._weights = whole_digests(ranker)
        self._rows = fingerprint_of(stream.state_dict())

    def record(self, stream: WatchedStream, budget_steps: int, state: LoopState) -> RunRecord:
        """Return what a study checks its pairs by, at the run's end. Every process calls it."""
        return RunRecord(
            weights=self._weights,
            rows=self._rows,
            first_batches=stream.seen(),
            budget_steps=budget_steps,
            steps=state.step,
            rows_seen=state.rows_seen,
            ended=str(state.ended),
        )


def counts_of_all(stream: BatchStream) -> dict[str, int]:
    """Return what the stream's policies corrected or dropped in the row groups that any process has read, each once.

    Every process calls it.
    """
    by_group: dict[str, dict[str, int]] = {}
    for one in gathered(stream.counts_by_group):
        by_group |= one
    whole: Counter[str] = Counter()
    for counts in by_group.values():
        whole.update(counts)
    return dict(whole)


def _batch_digest(batch: Batch) -> str:
    ids = batch.sparse
    tensors = (batch.dense, ids.values(), ids.lengths(), batch.segment, batch.label, batch.weight)
    return hashlib.sha256("".join(_digest(tensor) for tensor in tensors).encode()).hexdigest()[:_DIGITS]


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.flatten().view(torch.uint8).numpy().data).hexdigest()[:_DIGITS]
