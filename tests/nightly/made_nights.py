"""Finished nightly runs without training: rankers with weights of their own, served and measured on a small world."""

import datetime
from pathlib import Path

import numpy as np
import torch

from recsys.ablation.pairing import RunRecord
from recsys.artifacts.export import export_ranker
from recsys.build import build_ranker, describe_ranker
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.config.compositions import GatedConfig
from recsys.config.networks import CrossConfig
from recsys.datasets.decode import example_rows
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.evaluation.split_evaluation import predict
from recsys.evaluation.stored_predictions import save_predictions
from recsys.metrics.predictions import Predictions, predictions_of
from recsys.monitoring.cost import Cost
from recsys.nightly.places import NightlyRoot
from recsys.run.folder import PREDICTIONS, RESULT, RunResult
from recsys.run.record import open_store
from recsys.run.serving import MODEL
from recsys.run.session import TEST_EXTRAS
from recsys.run.streams import TEST, scoring_stream
from recsys.sharding.processes import ProcessContext
from recsys.towers.tower_spec import TowerSpec
from recsys.tracking.run import start_run
from tests.small_model import spread_out
from tests.worlds import FIRST_DAY, world_schema, write_encoded_world

NETWORK = CrossConfig(
    name="cross", field_width=4, field_widths={}, hidden_widths=(8,), dropout=0.5, first_order=True, layers=2
)
COMPOSITION = GatedConfig(name="conditional", width=6, expert_hidden=(5,), head_hidden=(4,), members=1)
SPEC = TowerSpec.two_tower(world_schema(), width=4, table_dimension=4, hidden_widths=[6])
TEST_DAYS = 4
FIRST_TEST_DAY = FIRST_DAY.date() + datetime.timedelta(days=3)
DATE = FIRST_TEST_DAY + datetime.timedelta(days=TEST_DAYS)
"""Of a run that is measured on the world's test days."""


class MadeNights:
    """A world with four test days of 60 rows, and the runs that are made over it."""

    def __init__(self, folder: Path) -> None:
        words = [f"runtime.runs={folder}/runs", "runtime.device=cpu", "runtime.threads=1", "ablation.resamples=50"]
        limits = ["daily.promotion.golden_rows=70", "daily.promotion.max_calibration_error=0.9"]
        self.overrides = ["data=simulated", *words]
        self.config: RunConfig = compose_config([*self.overrides, *limits])
        days = {"train": 2, "validation": 1, "test": TEST_DAYS}
        write_encoded_world(folder / "encoded", rows_per_day=60, days=days)
        self.encoded: EncodedDataset = open_encoded(folder / "encoded")
        self.champions = NightlyRoot.of(self.config).champions
        self.root = self.champions.path.parent

    def night(self, name: str, seed: int, hint: float = 0.0, is_served: bool = False) -> Path:
        """A finished run whose ranker has weights from `seed`.

        Args:
            hint: how much of the label its recorded predictions know; with none they are the ranker's own.
            is_served: whether its model is exported, which only a champion's must be.
        """
        folder = self.root / name
        folder.mkdir(parents=True)
        if is_served:
            self.serve(folder / MODEL, seed)
        found = self.predictions(seed)
        known = found.logit * (1 - hint) + hint * (4 * found.label - 2)
        save_predictions(predictions_of(found.columns() | {"logit": known.astype(np.float32)}), folder / PREDICTIONS)
        (folder / RESULT).write_text(result(name, spool_id="").to_json())
        return folder

    def serve(self, target: Path, seed: int) -> None:
        """Export the ranker with weights from `seed`."""
        contract = self.encoded.contract
        export_ranker(
            target,
            weights=self._ranker(seed).state_dict(),
            description=describe_ranker(NETWORK, COMPOSITION, SPEC),
            rebuild="recsys.build:rebuild_ranker",
            contract=contract,
            vocabularies={table: self.encoded.vocabulary(table) for table in contract.table_rows},
            example=example_rows(self.encoded, "validation", None),
        )

    def predictions(self, seed: int) -> Predictions:
        """What the ranker in memory says of the encoded test rows."""
        context = ProcessContext(rank=0, world_size=1, device=torch.device("cpu"))
        return predict(self._ranker(seed), scoring_stream(self.config, self.encoded, TEST, context, TEST_EXTRAS))

    def tracked(self, name: str, model: Path) -> str:
        """Record a run with its model; return its spool's id."""
        with start_run(open_store(self.config), f"daily/{name}", {"seed": 0}, {"kind": "daily"}) as run:
            run.log_model("ranker", model)
        return run.spool_id

    def _ranker(self, seed: int) -> torch.nn.Module:
        ranker = build_ranker(NETWORK, COMPOSITION, SPEC, self.encoded.contract, seed=seed)
        spread_out(ranker)
        return ranker.eval()


def result(name: str, spool_id: str) -> RunResult:
    """What a run leaves, as far as promotion reads it."""
    record = RunRecord({}, "rows", (), 1, 1, 1, "budget")
    cost = Cost(1.0, 1.0, 1, None, None, "none")
    return RunResult(name, spool_id, {}, {}, 1, 1, cost, record, {}, [])
