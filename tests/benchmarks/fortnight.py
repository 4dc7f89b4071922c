"""Fourteen nights on Online Retail: does retraining every night pay, and does a warm start do as well as scratch?

    python tests/benchmarks/fortnight.py --raw data/raw/online_retail --days 14 --json

Every night is `recsys daily` of one date. Beside it stand the first champion, never trained again, and a model that is
trained from scratch every night. All are measured on the newest day's invoices, which none of them has seen: NDCG@20 of
the whole candidate lists. Times are of whole nights in one run, so their ratios may be read, not their seconds.
"""

import argparse
import dataclasses
import datetime
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from recsys.artifacts.export import load_scorer
from recsys.config.compose import compose_config
from recsys.datasets.decode import raw_rows
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.manifest import part_path
from recsys.metrics.auc import AUC
from recsys.nightly import day
from recsys.nightly.dated import dated, window_of
from recsys.nightly.nightly_log import DayOutcome, NightlyLog
from recsys.nightly.places import NightlyRoot
from recsys.progress import silent
from recsys.run import prepare_daily
from recsys.run.folder import load_result
from recsys.run.serving import MODEL
from recsys.run.streams import RANKING_TEST

CUTOFF = 20
# Nights short enough that fourteen of each kind fit into an afternoon on two cores.
SMALLER = (
    "daily.validation_days=7",
    "daily.test_days=7",
    "evaluation.ranking=false",
    "tracking.system_metrics=false",
    "ablation.resamples=200",
)


def main() -> None:
    """Run the nights, print a table or JSON, and draw where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", required=True, help="folder with the raw rows of Online Retail")
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--first", type=datetime.date.fromisoformat, default=datetime.date(2011, 9, 2))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--picture", default="", help="file to draw the nights into")
    parser.add_argument("--work", default="", help="folder to keep everything in, so that a second call goes on")
    parser.add_argument("overrides", nargs="*", help="overrides of every night, such as daily.train_days=120")
    arguments = parser.parse_args()
    nights = []
    with tempfile.TemporaryDirectory() as scratch:
        for night in _nights(arguments, Path(arguments.work or scratch)):
            nights.append(night)
            # An afternoon is long: what is known so far is worth seeing.
            print(json.dumps(night), file=sys.stderr, flush=True)
    if arguments.picture:
        _draw(nights, Path(arguments.picture))
    if arguments.json:
        print(json.dumps({"nights": nights, **_summary(nights)}, indent=1))
    else:
        _print(nights)


def _nights(arguments: argparse.Namespace, root: Path) -> Any:
    common = [
        "data=online_retail",
        f"data.raw={arguments.raw}",
        f"runtime.encoded={root}/encoded",
        f"runtime.towers={root}/towers",
        *SMALLER,
        *arguments.overrides,
    ]
    warm = [*common, f"runtime.runs={root}/warm", "daily.start=champion"]
    scratch = [*common, f"runtime.runs={root}/scratch", "daily.start=scratch"]
    first: Path | None = None
    for number in range(arguments.days):
        date = arguments.first + datetime.timedelta(days=number)
        standing = NightlyRoot.of(compose_config(warm)).champions.before(date)
        night, seconds = _night(warm, date)
        anew, anew_seconds = _night(scratch, date)
        assert night.folder is not None
        assert anew.folder is not None
        assert night.decision is not None
        first = first or night.folder.path
        champion = NightlyRoot.of(compose_config(warm)).champions.folder(standing) if standing else night.folder.path
        encoded = _rows(scratch, date)
        models = {"champion": champion, "challenger": night.folder.path, "never": first, "scratch": anew.folder.path}
        ndcg = _ndcg(models, encoded, date - datetime.timedelta(days=1))
        yield {
            "date": date.isoformat(),
            "seconds": seconds,
            "scratch_seconds": anew_seconds,
            "promoted": night.decision.promote,
            "why": list(night.decision.reasons),
            "auc": _auc(night.folder.path),
            "scratch_auc": _auc(anew.folder.path),
            "train_seconds": _train_seconds(night.folder.path),
            "scratch_train_seconds": _train_seconds(anew.folder.path),
            "ndcg": ndcg,
        }


def _night(overrides: Sequence[str], date: datetime.date) -> tuple[day.DailyResult, float]:
    """A date's run, and its seconds from its first start to its decision, also where it was done before."""
    config = compose_config(overrides)
    result = day.run(config, date, silent)
    events = [event for event in NightlyLog(NightlyRoot.of(config).log).events() if event.date == str(date)]
    began = next(event.time for event in events if event.outcome is DayOutcome.STARTED)
    ended = next(e.time for e in events if e.outcome in (DayOutcome.PROMOTED, DayOutcome.REFUSED))
    passed = datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(began)
    return result, passed.total_seconds()


def _rows(overrides: Sequence[str], date: datetime.date) -> EncodedDataset:
    config = compose_config(overrides)
    return prepare_daily.run(dated(config, window_of(config, date)), silent)


def _auc(folder: Path) -> float | None:
    result = load_result(folder)
    return result.scores.get(f"{AUC.name}/all") if result else None


def _train_seconds(folder: Path) -> float | None:
    result = load_result(folder)
    return round(result.cost.wall_seconds, 1) if result else None


def _ndcg(models: dict[str, Path], encoded: EncodedDataset, newest: datetime.date) -> dict[str, float | None]:
    """NDCG@20 over the invoices of one day, by model."""
    if str(newest) not in encoded.days(RANKING_TEST):
        return dict.fromkeys(models)
    columns = pq.read_table(encoded.root / part_path(RANKING_TEST, str(newest)), columns=["query", "label"])
    query, label = columns["query"].to_numpy(), columns["label"].to_numpy()
    known: dict[Path, float] = {}
    for folder in models.values():
        if folder not in known:
            scorer = dataclasses.replace(load_scorer(folder / MODEL), reader=None)
            parts = raw_rows(encoded, RANKING_TEST, [str(newest)])
            known[folder] = _mean_ndcg(query, label, np.concatenate([scorer.score(rows) for rows in parts]))
    return {name: round(known[folder], 4) for name, folder in models.items()}


def _mean_ndcg(query: npt.NDArray[Any], label: npt.NDArray[Any], score: npt.NDArray[Any]) -> float:
    order = np.lexsort((-score, query))
    query, label = query[order], label[order]
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
    sizes = np.diff(np.r_[starts, len(query)])
    place = np.arange(len(query)) - np.repeat(starts, sizes)
    gain = np.where(place < CUTOFF, label / np.log2(place + 2), 0.0)
    best = np.cumsum(1 / np.log2(np.arange(CUTOFF) + 2))
    relevant = np.add.reduceat(label, starts).astype(int)
    found = np.add.reduceat(gain, starts)[relevant > 0]
    return float((found / best[np.minimum(relevant[relevant > 0], CUTOFF) - 1]).mean())


def _summary(nights: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the nights that have invoices, and what a warm start costs beside scratch after the first night."""
    later = [night for night in nights[1:] if night["train_seconds"]]
    scored = [night["ndcg"] for night in nights if night["ndcg"]["champion"] is not None]
    means = {name: round(float(np.mean([each[name] for each in scored])), 4) for name in (scored[0] if scored else {})}
    ratio = [night["train_seconds"] / night["scratch_train_seconds"] for night in later]
    whole = [night["seconds"] / night["scratch_seconds"] for night in later]
    return {
        "mean_ndcg": means,
        "promoted": sum(night["promoted"] for night in nights),
        "warm_to_scratch_training": round(float(np.median(ratio)), 3) if ratio else None,
        "warm_to_scratch_night": round(float(np.median(whole)), 3) if whole else None,
    }


def _print(nights: Sequence[dict[str, Any]]) -> None:
    print("date        night s  scratch s  promoted  champion  never   scratch  challenger (NDCG@20, newest day)")
    for night in nights:
        figures = "  ".join(
            f"{night['ndcg'][name] or float('nan'):.4f}" for name in ("champion", "never", "scratch", "challenger")
        )
        print(
            f"{night['date']}  {night['seconds']:7.1f}  {night['scratch_seconds']:9.1f}  "
            f"{'yes' if night['promoted'] else 'no':8}  {figures}  {night['why'][0]}"
        )
    print(json.dumps(_summary(nights)))


def _draw(nights: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    axes = figure.subplots()
    dates = [night["date"] for night in nights]
    lines = {"champion": "-o", "never": "--s", "scratch": ":^"}
    shown = {"champion": "champion", "never": "never trained again", "scratch": "from scratch every night"}
    for name, style in lines.items():
        values = [float("nan") if night["ndcg"][name] is None else night["ndcg"][name] for night in nights]
        axes.plot(dates, values, style, label=shown[name], linewidth=1.4, markersize=4)
    axes.set_ylabel("NDCG@20 on the newest day")
    axes.tick_params(axis="x", rotation=60, labelsize=8)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
