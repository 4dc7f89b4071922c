"""A prepared chart page: which runs, which charts, in which order. It stands under "Views" of the experiment's page.

MLflow's page orders sections by the alphabet and hides the eleventh run; a view puts what an ablation is about first.
Views are tags of the experiment in a format of MLflow's page (3.17: "saved views"), which ignores what it cannot read,
so a later MLflow that stores them otherwise shows its own arrangement.
"""

import base64
import json
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.files import fingerprint_of
from recsys.tracking import names

_TAG_PREFIX = "mlflow.sharedViewState."
# What somebody sees first, without scrolling: how good, how it learns, what each part's gradient does, how fast.
_GLANCE = "at a glance"
_GLANCE_CHARTS = (
    *(names.auc(names.VALIDATION), names.TRAIN_LOSS, names.auc(names.TEST)),
    *(names.grad_norm(part) for part in ("embedding_tower", "interaction_network", "composition")),
    *(names.score(names.VALIDATION, "log_loss"), names.grad_norm("head"), names.ROWS_PER_SECOND),
)
# Sections in the order in which a study is read: how good, by which curve, what the towers did, at what cost.
_SECTIONS = (
    *("valid_auc", "test_auc", "grad_norm", "train", "valid", "test", "ranking"),
    *("segment_share", "segment_cosine", "grad_norm_expert", "grad_norm_tables", "grad_norm_dense", "perf", "cost"),
)
_FIRST_CHARTS = (
    *(names.auc(names.VALIDATION), names.auc(names.TEST)),
    *(names.grad_norm(part) for part in ("embedding_tower", "interaction_network", "composition", "head", names.WHOLE)),
    names.TRAIN_LOSS,
)
_DRAWN_AS_BARS = ("test", "ranking", "cost")
_CARD_HEIGHT = 270
_OWN_SECTIONS = ("Model metrics", "System metrics")


@dataclass(frozen=True)
class ChartView:
    """A prepared chart page of one study.

    Attributes:
        name: as listed under "Views".
        ablation_id: whose arms it shows.
        metrics: names of the metrics to draw, in any order.
        is_grouped: one line per arm, the mean over its seeds, instead of one per run.
    """

    name: str
    ablation_id: str
    metrics: Sequence[str]
    is_grouped: bool

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
        glance = [_chart(metric, _GLANCE) for metric in _GLANCE_CHARTS if metric in self.metrics]
        charts = [_chart(metric, section) for section, metrics in by_section.items() for metric in metrics]
        group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": names.PARAM_ARM}]}
        return {
            "searchFilter": arms,
            "orderByKey": f"params.`{names.PARAM_ARM}`",
            "orderByAsc": True,
            "compareRunCharts": glance + charts,
            "compareRunSections": [_section(name) for name in (_GLANCE, *by_section, *_OWN_SECTIONS)],
            "isAccordionReordered": True,
            "runsHiddenMode": "SHOWALL",
            "hideEmptyCharts": True,
            "useGroupedValuesInCharts": True,
            "groupBy": group if self.is_grouped else None,
        }


def study_views(ablation_id: str, metrics: Iterable[str]) -> tuple[ChartView, ChartView]:
    """The two views of a study: arms as means over their seeds, and every run by itself."""
    drawn = tuple(metrics)
    return (
        ChartView(f"{ablation_id}: arms, mean over seeds", ablation_id, drawn, is_grouped=True),
        ChartView(f"{ablation_id}: every run", ablation_id, drawn, is_grouped=False),
    )


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


def _chart(metric: str, section: str) -> dict[str, Any]:
    is_bar = metric.startswith(_DRAWN_AS_BARS)
    chart: dict[str, Any] = {
        "uuid": f"{section}-{metric}",
        "type": "BAR" if is_bar else "LINE",
        "runsCountToCompare": 100,
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
            "range": {},
            "xAxisKey": "step",
        }
        chart |= {"selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False}
        chart |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return chart
