"""The model that the benchmarks of the training step share, and a run of it through the project's own loop.

DLRM's shape (Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019):
a bottom MLP for the dense features, a table per id, the dot products of all pairs of vectors, a top MLP of 512-256-1.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recsys.features.batch import Batch
from recsys.sharding.processes import ProcessContext
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.loop import LoopSettings, LoopState, train_steps
from recsys.training.loss import click_objective
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers, RateSchedule
from recsys.training.reports import StepReport
from recsys.training.snapshot import BestWeights
from recsys.training.training_stream import TrainingStream

WIDTH = 16
DENSE_RATE, TABLE_RATE = 1e-3, 0.02
NEVER = 10**9


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let the caller say what computes."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: by the clock, see the text")


def moment(device: torch.device) -> float:
    """Seconds of this process's processors, or on a GPU of the clock once all that was asked of the GPU is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


class Fields(nn.Module):
    """The tables.

    Args:
        tables: rows by the name of the feature, in the order of the batch.
    """

    def __init__(self, tables: Mapping[str, int]) -> None:
        super().__init__()
        self._names = list(tables)
        self.ebc = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"table_{name}",
                    embedding_dim=WIDTH,
                    num_embeddings=rows,
                    feature_names=[name],
                    pooling=PoolingType.SUM,
                )
                for name, rows in tables.items()
            ],
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, F, WIDTH)."""
        vectors = KeyedTensor.regroup([self.ebc(batch.sparse)], [self._names])[0]
        return vectors.view(len(batch), len(self._names), WIDTH)


class Dlrm(nn.Module):
    """Two parts: `interaction_network` holds the tables, `head` the layers."""

    def __init__(self, tables: Mapping[str, int], num_dense: int) -> None:
        super().__init__()
        self.interaction_network = Fields(tables)
        num_fields = len(tables) + 1
        width = WIDTH + num_fields * (num_fields - 1) // 2
        self.head = nn.ModuleDict(
            {
                "bottom": nn.Sequential(nn.Linear(num_dense, 64), nn.ReLU(), nn.Linear(64, WIDTH), nn.ReLU()),
                "top": nn.Sequential(
                    nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
                ),
            }
        )
        below = torch.tril_indices(num_fields, num_fields, -1)
        self.register_buffer("pairs", below[0] * num_fields + below[1], persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits (B,)."""
        dense = self.head["bottom"](batch.dense)
        fields = torch.cat([dense.unsqueeze(1), self.interaction_network(batch)], dim=1)
        dots = torch.bmm(fields, fields.transpose(1, 2)).flatten(1).index_select(1, self.get_buffer("pairs"))
        return self.head["top"](torch.cat([dense, dots], dim=1)).squeeze(1)


class Repeated:
    """The same batches over and over, in one endless epoch.

    What TorchRec computes from a batch's ids and keeps there is forgotten, as it is where every batch is new.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches, self.epoch, self.wait_seconds = itertools.cycle(batches), 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        return map(_fresh, self._batches)


class Run:
    """The model in the project's wrapper, with row-wise Adagrad on its tables and AdamW on its layers."""

    def __init__(self, tables: Mapping[str, int], num_dense: int, context: ProcessContext) -> None:
        torch.manual_seed(0)
        rules = {"interaction_network": TableOptimizer("rowwise_adagrad", TABLE_RATE)}
        self.wrapped = wrap_ranker(Dlrm(tables, num_dense), rules, context)
        schedule = RateSchedule(warmup_steps=0, total_steps=1, final_share=1.0)
        self.optimizers = RankerOptimizers(self.wrapped, {"head": DenseOptimizer(DENSE_RATE, 0.0)}, rules, schedule)
        self._context, self._state = context, LoopState()

    @property
    def rows_seen(self) -> int:
        """Rows trained on so far."""
        return self._state.rows_seen

    def steps(
        self,
        stream: TrainingStream,
        count: int,
        *,
        report_every: int = NEVER,
        norms_every: int = NEVER,
        after_step: Callable[[], None] = lambda: None,
    ) -> Iterator[StepReport]:
        """Take `count` steps more through the loop; yield its reports, the last step's among them."""

        def go_on() -> bool:
            after_step()
            return False

        settings = LoopSettings(
            max_steps=self._state.step + count,
            report_every=report_every,
            report_seconds=None,
            norms_every=norms_every,
            segment_view_every=0,
            validate_every=NEVER,
            validates_start=False,
            checkpoint_every=NEVER,
            patience=NEVER,
            max_gradient_norm=None,
            precision="float32",
            segments=(),
        )
        return train_steps(
            self.wrapped,
            self.optimizers,
            stream,
            click_objective,
            settings,
            self._context,
            state=self._state,
            best=BestWeights(nn.Identity()),
            validate=lambda: {"log_loss": 0.0},
            checkpoint=lambda _: None,
            should_stop=go_on,
        )


def _fresh(batch: Batch) -> Batch:
    ids = batch.sparse
    sparse = KeyedJaggedTensor(keys=ids.keys(), values=ids.values(), lengths=ids.lengths(), stride=len(batch))
    return Batch(batch.dense, sparse, batch.segment, batch.label, batch.weight, batch.extra)
