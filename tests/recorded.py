"""Runs back from the store as a table, for tests of what was recorded."""

import pandas as pd

from recsys.tracking import names
from recsys.tracking.store import TrackingStore
from recsys.tracking.studies import recorded_runs


def recorded_table(
    store: TrackingStore, ablation_id: str = "", kind: str = "arm", is_finished: bool = True
) -> pd.DataFrame:
    """Runs of a kind, oldest first: `run_id`, `name`, `status`, `param.<key>`, `metric.<key>`, `tag.<key>`."""
    found = [each for each in reversed(recorded_runs(store, ablation_id)) if each.tag(names.TAG_KIND) == kind]
    return pd.DataFrame(
        [
            {
                "run_id": each.run.info.run_id,
                "name": each.run.info.run_name,
                "status": each.run.info.status,
                **{f"param.{key}": value for key, value in each.run.data.params.items()},
                **{f"metric.{key}": value for key, value in each.run.data.metrics.items()},
                **{f"tag.{key}": value for key, value in each.run.data.tags.items()},
            }
            for each in found
            if each.is_finished == is_finished
        ]
    )


def metric_history(store: TrackingStore, run_id: str, metric: str) -> pd.DataFrame:
    """A metric's points by step: `step`, `value`."""
    points = sorted((point.step, point.value) for point in store.open().get_metric_history(run_id, metric))
    return pd.DataFrame(points, columns=["step", "value"])
