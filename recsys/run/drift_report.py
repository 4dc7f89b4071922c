"""The drift report of a run: `drift.json` in its folder, the worst movers, a figure, and an answer in a sentence.

May other models still share this tower? Those that read its item vectors were fitted to the ones that the run began
with, so the report says by how much they turned, how many nearest neighbours they kept, and of which items.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import MaxDriftConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError
from recsys.files import write_text_atomically
from recsys.run.drift_watch import RULE, WatchedItems, beyond, figures_of, most_turned
from recsys.run.folder import read_record
from recsys.run.streams import TRAIN
from recsys.towers.drift import Floats, Ints, VectorDrift, summarise, worst_movers
from recsys.towers.drift_groups import day_bins, popularity_bins
from recsys.towers.version import TowerVersion
from recsys.tracking.drift_figure import drift_by_group
from recsys.tracking.drift_names import DRIFT_FILE, TAG_DRIFT, drift_of_segment
from recsys.tracking.run import TrackedRun

DRIFT, MOVERS_FILE = "drift.json", "drift_worst_movers.csv"
ALL, BY_ROWS, BY_ITEMS = "all", "all, by rows", "all, by items"
POPULARITY, SEGMENT, FIRST_SEEN, LAST_SEEN = "popularity", "segment", "first seen", "last seen"
_MOVERS = 100
_MOVER_COLUMNS = ("space", "id", "cosine", "norm_change", "rows", "first_seen", "last_seen")


def drift_report(
    drift: Mapping[str, VectorDrift],
    items: WatchedItems,
    encoded: EncodedDataset,
    began: TowerVersion,
    ended: TowerVersion,
    limit: MaxDriftConfig | None,
) -> dict[str, Any]:
    """Return the report as plain JSON values.

    Args:
        drift: by the name of the vectors' space.
        began, ended: the tower that the run began with, and the one that it keeps.

    Returns:
        "answer": a sentence; "fault": by how much the limit is exceeded, or ""; "spaces": by name, and in each by kind
        of group and group, what `summarise` returns; "left_out": kinds of groups that the rows do not tell, and why.
    """
    fault = beyond(limit, figures_of(drift, items)) if limit else ""
    space, worst = most_turned(drift, items)
    table = encoded.contract.schema.feature(encoded.contract.schema.item).table
    grouped = _grouped(items, encoded)
    left_out = {} if items.days else {"first and last seen": "the training rows are of one day, or have no times"}
    any_drift = drift[space]
    return {
        "answer": _answer(worst.cosine_distance, worst.neighbours_lost, limit, fault),
        "fault": fault,
        "limit": asdict(limit) if limit else None,
        "from": {"version": began.version, "digest": began.digest},
        "to": {"version": ended.version, "digest": ended.digest, "parent": ended.parent},
        "items": {
            "in_vocabulary": encoded.contract.table_rows[table] - 1,
            "in_training_rows": items.last.seen,
            "measured": len(items.last.ids),
        },
        "neighbours": any_drift.neighbours,
        "neighbour_queries": len(any_drift.queries),
        "neighbour_pool": any_drift.pool,
        "seed": RULE.seed,
        "most_moved": space,
        "left_out": left_out,
        "spaces": {name: _summaries(each, items, grouped) for name, each in drift.items()},
    }


def load_drift(folder: Path) -> dict[str, Any] | None:
    """Return the drift report of the run in a folder; None where its training mode never moves the tower.

    Raises:
        DataError: the file is damaged or of another version.
    """
    path = folder / DRIFT
    return read_record(path, _report_of) if path.is_file() else None


def summaries_of(report: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return a report's figures by kind of group and group, of the space that turned most."""
    found: dict[str, dict[str, dict[str, Any]]] = report["spaces"][report["most_moved"]]
    return found


def record_drift(
    tracked: TrackedRun,
    report: Mapping[str, Any],
    drift: Mapping[str, VectorDrift],
    items: WatchedItems,
    encoded: EncodedDataset,
    folder: Path,
) -> None:
    """Write the report into the run's folder, and attach it, its figure and the worst movers to the run."""
    text = json.dumps(report, indent=1) + "\n"
    write_text_atomically(folder / DRIFT, text)
    tracked.attach(DRIFT, text)
    tracked.attach(MOVERS_FILE, movers_csv(drift, items, encoded))
    groups = summaries_of(report)
    tracked.attach(DRIFT_FILE, drift_by_group({"": groups}))
    tracked.log_final(
        {drift_of_segment(segment): each["cosine_distance"] for segment, each in groups.get(SEGMENT, {}).items()}
    )
    if report["limit"]:
        tracked.set_tags({TAG_DRIFT: report["fault"] or "within the limit"})


def movers_csv(drift: Mapping[str, VectorDrift], items: WatchedItems, encoded: EncodedDataset) -> str:
    """Return the items that turned furthest in each space, with their ids, as CSV."""
    schema = encoded.contract.schema
    ids, days = encoded.vocabulary(schema.feature(schema.item).table).ids, list(encoded.days(TRAIN))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_MOVER_COLUMNS)
    rows = items.last.rows.sum(axis=0)
    for space, each in drift.items():
        for place in worst_movers(each, _MOVERS).tolist():
            seen = [days[day[place]] for day in items.days] if items.days else ["", ""]
            cells = (f"{each.cosine[place]:.6f}", f"{each.norm_change[place]:.6f}", int(rows[place]))
            writer.writerow([space, ids[int(items.last.ids[place]) - 1].as_py(), *cells, *seen])
    return text.getvalue()


def _report_of(text: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(text)
    if not isinstance(report["fault"], str) or report["most_moved"] not in report["spaces"]:
        raise DataError("it is no drift report")
    return report


def _grouped(items: WatchedItems, encoded: EncodedDataset) -> dict[str, dict[str, Floats]]:
    """By kind of group and group, the weight of each item, (n,): its rows, and 0 for items of other groups."""
    last, traffic = items.last, items.traffic
    found = {ALL: {BY_ROWS: traffic, BY_ITEMS: last.stands_for}}
    # The names alone: the groups are those of all items, not of the measured ones.
    found[POPULARITY] = _weights(popularity_bins(np.empty(0, np.int64))[0], last.popularity, traffic)
    segments = encoded.contract.schema.segments
    found[SEGMENT] = dict(zip(segments, last.rows * last.stands_for, strict=True))
    if items.days:
        days = list(encoded.days(TRAIN))
        for kind, day in zip((FIRST_SEEN, LAST_SEEN), items.days, strict=True):
            found[kind] = _weights(*day_bins(day, days), traffic)
    return found


def _weights(groups: Sequence[str], group_of: Ints, weight: Floats) -> dict[str, Floats]:
    return {name: np.where(group_of == place, weight, 0.0) for place, name in enumerate(groups)}


def _summaries(
    drift: VectorDrift, items: WatchedItems, grouped: Mapping[str, Mapping[str, Floats]]
) -> dict[str, dict[str, Any]]:
    found = {
        kind: {name: summarise(drift, weight) for name, weight in groups.items()} for kind, groups in grouped.items()
    }
    return {kind: {name: asdict(each) for name, each in groups.items() if each} for kind, groups in found.items()}


def _answer(distance: float, lost: float | None, limit: MaxDriftConfig | None, fault: str) -> str:
    kept = "" if lost is None else f", and {1 - lost:.1%} of an item's nearest neighbours are the same"
    found = f"an item vector's cosine with its original is {1 - distance:.4f} on average over the rows{kept}"
    if distance == 0:
        return "Other models may share this tower: its item vectors are those that the run began with."
    if fault:
        return f"Other models should not share this tower unseen: {fault}"
    if limit:
        return f"Other models may share this tower within `training_mode.max_drift`: {found}."
    return (
        f"Whether other models may share this tower follows from what they read of it: {found}. `recsys towers "
        "compare` measures it for one of them; `training_mode.max_drift` sets a limit."
    )
