"""What a schema's policies did to the training rows stands with the run, and nothing does where they did nothing."""

import json
from pathlib import Path

import mlflow
import pytest

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.run.record import open_store
from recsys.streaming.loader import BatchStream
from tests.pipelines.test_proof_of_a_run import newest_run

COUNTS = {"rows dropped: price": 3, "rows dropped: clicked": 2, "rows dropped": 4, "ids unknown: item_id": 7}


@pytest.mark.parametrize("counts", [{}, COUNTS])
def test_counts_of_the_stream_reach_the_run(
    small_world: list[str], monkeypatch: pytest.MonkeyPatch, counts: dict[str, int]
) -> None:
    by_group = {"part-0.parquet, row group 0": counts} if counts else {}
    monkeypatch.setattr(BatchStream, "counts_by_group", property(lambda stream: by_group))

    assert main(["train", *small_world]) == 0

    run, client = newest_run(small_world), mlflow.MlflowClient(open_store(compose_config(small_world)).uri)
    kept = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert run.data.metrics.get("data/rows_dropped") == counts.get("rows dropped")
    assert run.data.metrics.get("data/values_mended") == counts.get("ids unknown: item_id")
    assert ("data_counts.json" in kept) == bool(counts)
    if counts:
        found = json.loads(Path(client.download_artifacts(run.info.run_id, "data_counts.json")).read_text())
        assert found == counts
