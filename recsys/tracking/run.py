"""One tracked run: started, logged to, ended, whatever ends it.

    with start_run(store, "frozen_tower/conditional/s0", params=flattened(config)) as run:
        for report in reports:
            run.log_step(report.step, training_metrics(...))
        run.log_final(evaluation_metrics(TEST, overall, by_segment))

Nothing here waits for the tracking store but the end of the block, and that not for long: see `spool` and `forwarder`.
"""

import json
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import FrameType, TracebackType
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from recsys.errors import UsageError
from recsys.files import writing
from recsys.tracking import names
from recsys.tracking.chart_views import ChartView
from recsys.tracking.forwarder import Forwarder
from recsys.tracking.spool import Spool
from recsys.tracking.store import TrackingStore

# What a run waits for the store at its end; then its rest is left to `recsys sync`.
_PATIENCE_SECONDS = 60.0
_LONGEST_REASON = 500  # characters, of the thousands that a tag takes: enough to tell an error by
_LONGEST_DIGEST = 36  # MLflow's own limit on a dataset's digest
_FIGURE_DOTS_PER_INCH = 144
# The run list has a column for these; MLflow fills it only for runs started by its own `start_run`.
_SOURCE_TAGS = {"mlflow.source.name": "recsys", "mlflow.source.type": "LOCAL"}
_SIGTERM_EXIT, _INTERRUPT_EXIT = 128 + signal.SIGTERM, 128 + signal.SIGINT


@dataclass(frozen=True)
class DatasetUse:
    """Data that a run read, as the run page shows it.

    Attributes:
        context: what for: `train`, `validation`, `test`.
        digest: of the content, such as `sha256:...`; MLflow keeps its first 36 digits.
        source: path or address.
        columns: name -> type, as `long`, `float`, `double`, `string`, `boolean` or `datetime`.
        rows: how many.
        details: what else a reader should know (sampling, dates); JSON-able.
    """

    name: str
    context: str
    digest: str
    source: str
    columns: Mapping[str, str]
    rows: int
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short_digest(self) -> str:
        """The digest as MLflow keeps it."""
        return self.digest.removeprefix("sha256:")[:_LONGEST_DIGEST]

    def to_event(self) -> dict[str, Any]:
        """Return the spool's line for this use."""
        columns = [{"name": name, "type": kind, "required": True} for name, kind in self.columns.items()]
        return {
            "name": self.name,
            "digest": self.short_digest,
            "source_type": "local",
            "source": json.dumps({"uri": self.source}),
            "schema": json.dumps({"mlflow_colspec": columns}),
            "profile": json.dumps({"num_rows": self.rows, **self.details}),
            "context": self.context,
        }


class TrackedRun:
    """A run that is under way; made by `start_run`, ended by leaving its `with` block.

    Left normally it is FINISHED; by Ctrl-C or SIGTERM, KILLED; by any other error, FAILED with the error's text as the
    tag `end_reason`. The error goes on to the caller.
    """

    def __init__(self, spool: Spool, forwarder: Forwarder) -> None:
        self._spool = spool
        self._forwarder = forwarder
        self._last_step = 0
        self._previous_handler: Any = None

    @property
    def spool_id(self) -> str:
        """What `start_run` wants to go on with this run after it died; keep it beside the checkpoints."""
        return self._spool.spool_id

    @property
    def spool_folder(self) -> Path:
        """Where this run's lines are."""
        return self._spool.folder

    @property
    def run_id(self) -> str | None:
        """The run's id in the store; None until the store has answered once."""
        return self._forwarder.run_id

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a step's metrics; NaN and infinite ones are counted in `names.NON_FINITE` instead.

        A (metric, step) that was recorded before, by the run that this one resumes, is left as it was.
        """
        self._last_step = max(self._last_step, step)
        self._spool.write_metrics(step, _finite(metrics))

    def log_final(self, metrics: Mapping[str, float], dataset: DatasetUse | None = None, model: str = "") -> None:
        """Record scores that a run has once; the chart page draws them as bars.

        Args:
            metrics: by names that no step uses, or each bar becomes a line.
            dataset: the data they were measured on; it must be one of the run's datasets.
            model: the name given to `log_model`, to which the scores then belong as well.
        """
        about = {"model": model} if model else {}
        if dataset:
            about |= {"dataset_name": dataset.name, "dataset_digest": dataset.short_digest}
        self._spool.write_final(_finite(metrics), about)

    def log_params(self, params: Mapping[str, str | int | float]) -> None:
        """Record params, which cannot be changed afterwards."""
        self._spool.write("params", {"params": {names.checked_key(key): str(value) for key, value in params.items()}})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; an earlier value is replaced."""
        self._spool.write("tags", {"tags": dict(tags)})

    def log_dataset(self, dataset: DatasetUse) -> None:
        """Record that the run read this data."""
        self._spool.write("dataset", dataset.to_event())

    def attach(self, name: str, content: Path | str | Figure) -> None:
        """Keep a file with the run; it is copied now, so the original may change or go.

        Args:
            name: its path in the run's artifacts, such as `plots/calibration.png`.
            content: a file or folder, a text, or a figure to be drawn as the name's extension says.
        """
        place = self._spool.file_place(_checked_name(name))
        with writing(place):
            if isinstance(content, str):
                place.write_text(content, encoding="utf-8")
            elif isinstance(content, Figure):
                # Ids in an SVG are random without a salt, and the same figure would be another file each time.
                with mpl.rc_context({"svg.hashsalt": "recsys"}):
                    content.savefig(place, dpi=_FIGURE_DOTS_PER_INCH, bbox_inches="tight")
            elif content.is_dir():
                shutil.copytree(content, place)
            else:
                shutil.copy2(content, place)
        folder = str(PurePosixPath(name).parent)
        self._spool.write("file", {"place": self._relative(place), "folder": "" if folder == "." else folder})

    def save_chart_view(self, view: ChartView) -> None:
        """Keep a prepared chart page with the experiment; it is found under "Views" on that page."""
        self._spool.write("view", {"key": view.tag, "value": view.to_text()})

    def log_model(self, name: str, folder: Path) -> None:
        """Keep a served model, as `artifacts.export` wrote it, and list it among the experiment's models."""
        place = self._spool.file_place(_checked_name(name))
        with writing(place):
            shutil.copytree(folder, place)
        self._spool.write("model", {"name": name, "place": self._relative(place), "step": self._last_step})

    def __enter__(self) -> "TrackedRun":
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # Untended, SIGTERM ends Python on the spot and leaves the run RUNNING in the store for ever.
            self._previous_handler = signal.signal(signal.SIGTERM, _leave)
        self._forwarder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The line first, so that a store which is away learns later how the run ended; the lock last.
        status, reason = _ending(error)
        self._spool.write("end", {"status": status, "reason": reason[:_LONGEST_REASON]})
        self._forwarder.finish(_PATIENCE_SECONDS)
        self._spool.close()
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def _relative(self, place: Path) -> str:
        return str(place.relative_to(self._spool.folder))


def start_run(
    store: TrackingStore,
    name: str,
    params: Mapping[str, str | int | float],
    tags: Mapping[str, str],
    datasets: Sequence[DatasetUse] = (),
    *,
    system_metrics: bool = False,
    resume: str = "",
) -> TrackedRun:
    """Start a run, or go on with one.

    Args:
        name: what differs from other runs first; see `names.run_name`.
        params: flat, the same keys in every run; see `names.flattened`.
        tags: `names.TAG_KIND` and, in a study, `names.TAG_ABLATION_ID` at least.
        system_metrics: whether to sample processor and memory every 10 seconds.
        resume: the `spool_id` of the run to go on with; its params, tags and datasets are kept as they are.

    Raises:
        CannotWriteError: the spool folder cannot be written; nothing has been trained yet.
        DataError: there is no run to resume.
        BusyError: the run to resume is still alive.
    """
    if resume:
        spool = Spool.resume(store.spool_directory, resume)
    else:
        spool = Spool.create(
            store.spool_directory, {"name": name, "experiment": store.experiment, "tags": _SOURCE_TAGS | dict(tags)}
        )
    run = TrackedRun(spool, Forwarder(spool, store, system_metrics))
    if not resume:
        run.log_params(params)
        for dataset in datasets:
            run.log_dataset(dataset)
    return run


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    finite, dropped = names.split_finite(metrics)
    return finite | {names.NON_FINITE: float(dropped)} if dropped else finite


def _ending(error: BaseException | None) -> tuple[str, str]:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED", ""
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == _INTERRUPT_EXIT):
        return "KILLED", "interrupted by Ctrl-C"
    if isinstance(error, SystemExit) and error.code == _SIGTERM_EXIT:
        return "KILLED", "stopped by SIGTERM"
    return "FAILED", f"{type(error).__name__}: {error}"


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_SIGTERM_EXIT)


def _checked_name(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UsageError(f"The attachment name {name!r} leaves the run's folder; expected one such as `plots/auc.png`.")
    return name
