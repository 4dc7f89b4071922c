"""Finished runs back from the store as a table, for comparisons that need no browser."""

from collections.abc import Iterable

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from recsys.errors import DataError
from recsys.tracking import names
from recsys.tracking.store import TrackingStore

_RUNS_PER_PAGE = 1000


def finished_runs(store: TrackingStore, ablation_id: str = "", kind: str = "arm") -> pd.DataFrame:
    """Return the experiment's FINISHED runs of a kind, oldest first, one row each.

    Args:
        ablation_id: only the runs of this study; empty for all.
        kind: one of `names.KINDS`.

    Returns:
        Columns `run_id`, `name`, `start`, `seconds`, then every param as `param.<key>`, every metric's last value as
        `metric.<key>`, and every tag of ours as `tag.<key>`. What a run lacks is NaN.

    Raises:
        ServiceError: the server does not answer.
        DataError: the store has no such experiment.
    """
    return _table(_search(store, _kind_filter(kind, ablation_id, "attributes.status = 'FINISHED'")))


def unfinished_runs(store: TrackingStore, ablation_id: str = "", kind: str = "arm") -> pd.DataFrame:
    """Return the runs that are under way, failed or were killed, as `finished_runs` does, with a column `status`."""
    runs = _search(store, _kind_filter(kind, ablation_id, "attributes.status != 'FINISHED'"))
    return _table(runs).assign(status=[run.info.status for run in runs])


def metric_history(store: TrackingStore, run_id: str, metric: str) -> pd.DataFrame:
    """Return a metric's points, columns `step` and `value`, by step; empty where the run never logged it."""
    points = store.open().get_metric_history(run_id, metric)
    frame = pd.DataFrame({"step": [point.step for point in points], "value": [point.value for point in points]})
    return frame.astype({"step": "int64", "value": "float64"}).sort_values("step", ignore_index=True)


def _kind_filter(kind: str, ablation_id: str, status: str) -> str:
    conditions = [status, f"tags.{names.TAG_KIND} = '{kind}'"]
    if ablation_id:
        conditions.append(f"tags.{names.TAG_ABLATION_ID} = '{ablation_id}'")
    return " and ".join(conditions)


def _search(store: TrackingStore, condition: str) -> list[Run]:
    client = store.open()
    experiment = client.get_experiment_by_name(store.experiment)
    if experiment is None:
        known = ", ".join(sorted(found.name for found in client.search_experiments())) or "none"
        raise DataError(
            f"The store {store.public_uri} has no experiment {store.experiment!r}; it has: {known}. Set "
            "`tracking.experiment` to one of these."
        )
    return list(_pages(client, experiment.experiment_id, condition))


def _pages(client: MlflowClient, experiment_id: str, condition: str) -> Iterable[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], condition, max_results=_RUNS_PER_PAGE, order_by=["start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _table(runs: Iterable[Run]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "run_id": run.info.run_id,
                "name": run.info.run_name,
                "start": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
                "seconds": (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else float("nan"),
                **{f"param.{key}": value for key, value in sorted(run.data.params.items())},
                **{f"metric.{key}": value for key, value in sorted(run.data.metrics.items())},
                **{
                    f"tag.{key}": value for key, value in sorted(run.data.tags.items()) if not key.startswith("mlflow.")
                },
            }
            for run in runs
        ]
    )
