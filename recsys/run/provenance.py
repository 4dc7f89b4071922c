"""Digests of what a run started from and read first, by which a study checks that two runs were a pair."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recsys.ablation.pairing import RunRecord
from recsys.features.batch import Batch
from recsys.files import fingerprint_of
from recsys.sharding.state_digests import whole_digests
from recsys.streaming.loader import BatchStream
from recsys.training.loop import LoopState

_FIRST_BATCHES = 16
_DIGITS = 16


class WatchedStream:
    """A stream that keeps a digest of each of the first batches that it handed out.

    Attributes:
        seen: the digests, of at most 16 batches from the run's beginning.
    """

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self.seen: list[str] = []

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
            if len(self.seen) < _FIRST_BATCHES:
                self.seen.append(_batch_digest(batch))
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The stream's, and the digests."""
        return self._stream.state_dict() | {"first_batches": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self.seen = list(state["first_batches"])
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
        """Return what a study checks its pairs by, at the run's end."""
        return RunRecord(
            weights=self._weights,
            rows=self._rows,
            first_batches=stream.seen,
            budget_steps=budget_steps,
            steps=state.step,
            rows_seen=state.rows_seen,
            ended=str(state.ended),
        )


def _batch_digest(batch: Batch) -> str:
    ids = batch.sparse
    tensors = (batch.dense, ids.values(), ids.lengths(), batch.segment, batch.label, batch.weight)
    return hashlib.sha256("".join(_digest(tensor) for tensor in tensors).encode()).hexdigest()[:_DIGITS]


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.flatten().view(torch.uint8).numpy().data).hexdigest()[:_DIGITS]
