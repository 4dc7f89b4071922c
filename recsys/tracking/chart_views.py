"""A prepared chart page: which runs, which charts, in which order; listed under "Views" on the experiment's page.

MLflow's page orders sections by the alphabet and hides the eleventh run; a view puts what an ablation is about first.
Views are tags of the experiment in a format of MLflow's page (3.17: "saved views"), which ignores what it cannot read,
so a later MLflow that stores views in another way shows its own order instead.
"""

import base64
import json
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys.files import fingerprint_of
from recsys.tracking import names

_TAG_PREFIX = "mlflow.sharedViewState."
# What somebody sees first: how good, how it learns, what each tower's gradient does, how fast; then how good for whom.
_GLANCE = "at a glance"
_GLANCE_CHARTS = (
    *(names.auc(names.VALIDATION), names.TRAIN_LOSS, names.grad_norm("embedding_tower")),
    *(names.grad_norm("interaction_network"), names.ROWS_PER_SECOND),
)
# Sections in the order in which a study is read: how good, by which curve, what the towers did, at what cost.
_SECTIONS = (
    *("valid_auc", "test_auc", "grad_norm", "train", "valid", "test", "ranking"),
    *("gate_embedding_tower", "gate_interaction_network"),
    *("segment_share", "segment_cosine", "grad_norm_tower", "grad_norm_expert", "grad_norm_tables"),
    *("grad_norm_dense", "perf", "cost"),
)
_FIRST_CHARTS = (
    *(names.auc(names.VALIDATION), names.auc(names.TEST)),
    *(names.grad_norm(part) for part in ("embedding_tower", "interaction_network", "composition", "head", names.WHOLE)),
    names.TRAIN_LOSS,
)
_DRAWN_AS_BARS = ("test", "ranking", "cost")
_CARD_HEIGHT = 250  # pixels
_ROOM_SHARE = 0.05  # of the curves' span, above and below them
_SEGMENTS = names.auc(names.VALIDATION).partition("/")[0]
_OWN_SECTIONS = ("Model metrics", "System metrics")


@dataclass(frozen=True)
class ChartView:
    """A prepared chart page of one study.

    Attributes:
        name: as listed under "Views".
        ablation_id: whose arms it shows.
        metrics: names of the metrics to draw, in any order.
        is_grouped: one line per arm, the mean over its seeds, instead of one per run.
        ranges: metric -> lowest and highest value on its chart's axis, where MLflow should not choose them.
    """

    name: str
    ablation_id: str
    metrics: Sequence[str]
    is_grouped: bool
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names the view in an address; the same study and name give the same key."""
        return fingerprint_of([self.ablation_id, self.name])

    @property
    def tag(self) -> str:
        """The experiment's tag that holds the view."""
        return f"{_TAG_PREFIX}{self.key}"

    def to_text(self) -> str:
        """Return the tag's value."""
        now = time.time_ns() // 1_000_000
        packed = base64.b64encode(zlib.compress(json.dumps(self.to_state()).encode())).decode()
        return json.dumps({"name": self.name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"})

    def address(self, uri: str, experiment_id: str) -> str:
        """Return the address of the page on a tracking server."""
        # The last word turns MLflow's side bar to training, where it would otherwise offer prompts and traces.
        query = f"viewStateShareKey={self.key}&compareRunsMode=CHART&workflowType=machine_learning"
        return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"

    def to_state(self) -> dict[str, Any]:
        """Return the page's state as MLflow's page keeps it."""
        arms = f"tags.{names.TAG_KIND} = 'arm' and tags.{names.TAG_ABLATION_ID} = '{self.ablation_id}'"
        by_section = _by_section(self.metrics)
        wanted = [(metric, _GLANCE) for metric in _at_a_glance(by_section)]
        wanted += [(metric, section) for section, metrics in by_section.items() for metric in metrics]
        group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": names.PARAM_ARM}]}
        return {
            "searchFilter": arms,
            "orderByKey": f"params.`{names.PARAM_ARM}`",
            "orderByAsc": True,
            "compareRunCharts": [_chart(metric, section, self.ranges.get(metric)) for metric, section in wanted],
            "compareRunSections": [_section(name) for name in (_GLANCE, *by_section, *_OWN_SECTIONS)],
            "isAccordionReordered": True,
            "runsHiddenMode": "SHOWALL",
            "hideEmptyCharts": True,
            "useGroupedValuesInCharts": True,
            "groupBy": group if self.is_grouped else None,
        }


def study_views(
    ablation_id: str, metrics: Iterable[str], curves: Mapping[str, Iterable[float]]
) -> tuple[ChartView, ChartView]:
    """The two views of a study: arms as means over their seeds, and every run by itself.

    Args:
        metrics: names of all metrics to draw.
        curves: metric -> every value that some arm had, for the metrics that are far from 0 beside how far they are
            from each other. MLflow's chart of means begins at 0, and would draw them as one line.
    """
    drawn = tuple(metrics)
    ranges = {metric: _range(tuple(values)) for metric, values in curves.items()}
    return (
        ChartView(f"{ablation_id}: arms, mean over seeds", ablation_id, drawn, is_grouped=True, ranges=ranges),
        ChartView(f"{ablation_id}: every run", ablation_id, drawn, is_grouped=False),
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    room = _ROOM_SHARE * (max(values) - min(values)) or _ROOM_SHARE
    return min(values) - room, max(values) + room


def _at_a_glance(by_section: Mapping[str, Sequence[str]]) -> list[str]:
    known = {metric for metrics in by_section.values() for metric in metrics}
    per_segment = [metric for metric in by_section.get(_SEGMENTS, ()) if metric not in _GLANCE_CHARTS]
    return [*(metric for metric in _GLANCE_CHARTS if metric in known), *per_segment]


def _by_section(metrics: Iterable[str]) -> dict[str, list[str]]:
    """Metrics under their sections, both in reading order; system metrics have a page of their own."""
    first = {metric: place for place, metric in enumerate(_FIRST_CHARTS)}
    wanted = sorted(set(metrics), key=lambda metric: (first.get(metric, len(first)), metric))
    found = {metric.partition("/")[0] for metric in wanted} - {"system"}
    ordered = [*(name for name in _SECTIONS if name in found), *sorted(found - set(_SECTIONS))]
    return {name: [metric for metric in wanted if metric.partition("/")[0] == name] for name in ordered}


def _section(name: str) -> dict[str, Any]:
    return {
        "uuid": f"section-{name}",
        "name": name,
        "display": name not in _OWN_SECTIONS,
        "isReordered": True,
        "deleted": False,
        "isGenerated": name != _GLANCE,
        "columns": 3,
        "cardHeight": _CARD_HEIGHT,
    }


def _chart(metric: str, section: str, ends: tuple[float, float] | None) -> dict[str, Any]:
    is_bar = metric.startswith(_DRAWN_AS_BARS)
    chart: dict[str, Any] = {
        "uuid": f"{section}-{metric}",
        "type": "BAR" if is_bar else "LINE",
        "runsCountToCompare": 100,  # the page draws ten runs unless a chart asks for more
        "metricSectionId": f"section-{section}",
        "deleted": False,
        "isGenerated": section != _GLANCE,
        "displayName": metric,
        "metricKey": metric,
    }
    if not is_bar:
        chart |= {
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisScaleType": "linear",
            "range": dict(zip(("yMin", "yMax"), ends or (), strict=False)),
            "xAxisKey": "step",
        }
        chart |= {"selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False}
        chart |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return chart
