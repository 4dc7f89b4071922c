"""A finished run's served model: written with the run, loaded by `score`, `evaluate` and `daily`."""

from pathlib import Path

from torch import nn

from recsys.artifacts.export import export_ranker
from recsys.build import describe_ranker
from recsys.config import RunConfig
from recsys.datasets.decode import example_rows
from recsys.datasets.encoded import EncodedDataset
from recsys.sharding.fused import whole_state
from recsys.towers.embedding import TowerSpec

MODEL = "model"


def export_run(folder: Path, config: RunConfig, spec: TowerSpec, wrapped: nn.Module, encoded: EncodedDataset) -> Path:
    """Write the run's ranker, with the weights it has now, as a served model in the run's folder; return where.

    Every process calls it; one of them writes.
    """
    contract = encoded.contract
    vocabularies = {table: encoded.vocabulary(table) for table in contract.table_rows}
    export_ranker(
        folder / MODEL,
        weights=whole_state(wrapped),
        description=describe_ranker(
            config.network, config.composition, spec, adapter_rank=config.training_mode.adapter_rank
        ),
        rebuild="recsys.build:rebuild_ranker",
        contract=contract,
        vocabularies=vocabularies,
        example=example_rows(encoded, "validation"),
    )
    return folder / MODEL
