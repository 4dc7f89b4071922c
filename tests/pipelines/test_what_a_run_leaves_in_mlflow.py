"""Two real runs as a stranger finds them in the store: names, params, data, scores, and a model that loads anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

from pipelines.cli import main
from recsys.composition.branches import BRANCHES
from recsys.config.compose import compose_config
from recsys.datasets.decode import raw_rows
from recsys.evaluation.stored_predictions import load_predictions
from recsys.progress import silent
from recsys.run.drift_report import load_drift
from recsys.run.folder import PREDICTIONS
from recsys.run.prepare import run as prepare
from recsys.run.record import open_store
from recsys.tracking import names
from recsys.tracking.drift_names import drift
from recsys.tracking.gate_names import gate

DRAWS_PICTURES = True
MODES = {"frozen_tower": "conditional", "end_to_end": "parallel"}


class Recorded:
    """The store with a run of each mode, and the run folders."""

    def __init__(self, world: list[str], runs: Path) -> None:
        self.words, self.root = [*world, f"runtime.runs={runs}"], runs
        for mode, composition in MODES.items():
            assert main(["train", *self.words, f"training_mode={mode}", f"composition={composition}"]) == 0
        self.client: MlflowClient = open_store(compose_config(self.words)).open()
        experiment = self.client.get_experiment_by_name("simulated")
        found = self.client.search_runs([experiment.experiment_id], f"tags.{names.TAG_KIND} = 'train'")
        self.runs: dict[str, Run] = {run.data.params[names.PARAM_MODE]: run for run in found}

    def model(self, mode: str) -> LoggedModel:
        (output,) = self.runs[mode].outputs.model_outputs
        return self.client.get_logged_model(output.model_id)

    def folder(self, mode: str) -> Path:
        (folder,) = (path.parent for path in self.root.glob(f"simulated/*{mode}*/result.json"))
        return folder


@pytest.fixture(scope="module")
def recorded(small_world: list[str], tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(small_world, tmp_path_factory.mktemp("recorded"))


def test_runs_of_different_modes_have_the_same_params_and_say_none_where_something_is_off(recorded: Recorded):
    frozen, tuned = (recorded.runs[mode].data.params for mode in MODES)

    assert set(frozen) == set(tuned)
    assert set(names.GROUPING_PARAMS) <= set(frozen)
    assert (frozen[names.PARAM_MODE], frozen[names.PARAM_COMPOSITION]) == ("frozen_tower", "conditional")
    assert tuned["composition.expert_hidden"] == "none"
    assert "" not in {*frozen.values(), *tuned.values()}


def test_a_run_is_named_by_what_differs_first_and_tagged_with_what_it_is(recorded: Recorded):
    run = recorded.runs["frozen_tower"]

    assert run.info.run_name == "frozen_tower/conditional/s0"
    tags = run.data.tags
    assert (tags[names.TAG_KIND], tags[names.TAG_ARM]) == ("train", "frozen_tower/conditional")
    assert tags[names.TAG_FROZEN_PROOF] == "unchanged"
    assert "mlflow.parentRunId" not in tags, "nested runs vanish from the pages that compare"


def test_every_metric_key_makes_a_chart_and_there_are_not_too_many(recorded: Recorded):
    for mode, run in recorded.runs.items():
        own = [key for key in run.data.metrics if not key.startswith("system/")]
        assert all(key.count("/") == 1 for key in own), mode
        # A page with more charts is not read; sizes of segments are not drawn.
        assert len([key for key in own if "support" not in key]) < 70, mode
        segments = ("students", "commuters", "families", "collectors")
        wanted = {names.TRAIN_LOSS, names.ROWS_PER_SECOND, names.auc(names.VALIDATION), names.auc(names.TEST)}
        wanted |= {names.auc(names.VALIDATION, segment) for segment in segments}
        gates = {gate(branch, segment) for branch in BRANCHES for segment in segments}
        assert gates & set(own) == (gates if run.data.params[names.PARAM_COMPOSITION] == "conditional" else set())
        wanted |= {names.grad_norm(part) for part in ("embedding_tower", "interaction_network", "head")}
        moved = {drift(measure) for measure in ("cosine_distance", "neighbours_lost", "norm_change")}
        assert moved & set(own) == (moved if mode == "end_to_end" else set())
        assert (load_drift(recorded.folder(mode)) is None) == (mode == "frozen_tower")
        wanted |= {names.EPOCH, names.ROWS_SEEN, names.SKIPPED_BATCHES, names.learning_rate("embedding_tower")}
        assert wanted <= set(own), mode


def test_the_data_of_each_split_stands_with_its_digest_and_source(recorded: Recorded):
    uses = {use.tags[0].value: use.dataset for use in recorded.runs["end_to_end"].inputs.dataset_inputs}

    assert set(uses) == {"train", "validation", "test"}
    assert len({use.digest for use in uses.values()}) == 3
    encoded = prepare(compose_config(recorded.words), silent)
    for use in uses.values():
        assert len(use.digest) >= 12
        assert json.loads(use.source)["uri"].startswith(str(encoded.root))
        assert json.loads(use.profile)["num_rows"] > 0


def test_the_model_carries_the_test_scores_and_names_the_data_they_were_measured_on(recorded: Recorded):
    run, model = recorded.runs["frozen_tower"], recorded.model("frozen_tower")

    (test,) = [use.dataset for use in run.inputs.dataset_inputs if use.tags[0].value == "test"]
    scores = {metric.key: metric for metric in model.metrics}
    assert scores[names.auc(names.TEST)].value == run.data.metrics[names.auc(names.TEST)]
    assert {(metric.dataset_name, metric.dataset_digest) for metric in model.metrics} == {(test.name, test.digest)}
    assert (model.source_run_id, str(model.status)) == (run.info.run_id, "READY")


def test_nothing_that_was_recorded_is_pickled(recorded: Recorded):
    files = [path for path in recorded.root.rglob("*") if path.is_file() and path.name != "mlflow.db"]

    assert len(files) > 50
    assert {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".bin"} == set()
    # A pickle of any protocol from 2 on begins with this byte; a zip, which is what torch.save writes, with PK. The
    # length that safetensors begins with may hold any byte; a JSON object comes after it.
    begun = {path: path.read_bytes()[:9] for path in files}
    safe = {path for path, start in begun.items() if path.suffix == ".safetensors" and start[8:] == b"{"}
    assert not [path for path, start in begun.items() if start.startswith((b"\x80", b"PK")) and path not in safe]


@pytest.mark.parametrize("mode", MODES)
def test_a_stranger_loads_the_model_by_its_id_and_scores_a_frame_as_the_ranker_did(
    mode: str, recorded: Recorded, tmp_path: Path
):
    encoded = prepare(compose_config(recorded.words), silent)
    rows = pa.concat_tables(raw_rows(encoded, "test"))
    pq.write_table(rows, tmp_path / "rows.parquet")
    script = (
        "import json, sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "scores = model.predict(pd.read_parquet(sys.argv[2]))['probability']\n"
        "example = model.predict(model.input_example)\n"
        "code, inputs = sys.modules['recsys'].__file__, model.metadata.signature.inputs.input_names()\n"
        "print(json.dumps({'scores': scores.tolist(), 'example': len(example), 'code': code, 'inputs': inputs}))\n"
    )
    uri = open_store(compose_config(recorded.words)).uri
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    address = f"models:/{recorded.model(mode).model_id}"
    command = [sys.executable, "-c", script, address, str(tmp_path / "rows.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)

    found = json.loads(done.stdout.splitlines()[-1])
    logit = load_predictions(recorded.folder(mode) / PREDICTIONS).logit.astype(np.float64)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(-logit)), rtol=0, atol=1e-6)
    assert np.ptp(found["scores"]) > 0.01
    assert not Path(found["code"]).is_relative_to(Path(__file__).parents[2]), (
        "it ran this checkout, not what it brought"
    )
    assert set(found["inputs"]) <= set(rows.column_names)
    assert found["example"] > 0
