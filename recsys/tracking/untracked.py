"""What a process that is not the first has in place of a tracked run: everything is accepted, nothing is recorded."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from matplotlib.figure import Figure

from recsys.tracking.chart_views import ChartView
from recsys.tracking.run import DatasetUse, TrackedRun


class UntrackedRun(TrackedRun):
    """A run of which another process keeps the record."""

    def __init__(self) -> None:
        """Open no spool and no store."""

    @property
    def spool_id(self) -> str:
        """None."""
        return ""

    @property
    def run_id(self) -> str | None:
        """None."""
        return None

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record nothing."""

    def log_final(self, metrics: Mapping[str, float], dataset: DatasetUse | None = None, model: str = "") -> None:
        """Record nothing."""

    def log_params(self, params: Mapping[str, str | int | float]) -> None:
        """Record nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record nothing."""

    def log_dataset(self, dataset: DatasetUse) -> None:
        """Record nothing."""

    def attach(self, name: str, content: Path | str | Figure) -> None:
        """Record nothing."""

    def save_chart_view(self, view: ChartView) -> None:
        """Record nothing."""

    def log_model(self, name: str, folder: Path) -> None:
        """Record nothing."""

    def __enter__(self) -> "UntrackedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
