"""Prepare the rows, and show what came out: splits, segments, what each feature says alone, and what to look at."""

import argparse
import json
import shlex
import sys
from typing import Any

from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.inspection.prepared_rows import PreparedReport
from recsys.inspection.summaries import FeatureSummary, MeasuredAuc, SplitSummary
from recsys.progress import silent
from recsys.run import prepare, prepared_report

from .console import console, progress_bars, show_table


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Prepare, and show what came out."""
    if arguments.json:
        encoded = prepare.run(config, silent)
        sys.stdout.write(json.dumps(_document(encoded, prepared_report.run(encoded, silent)), indent=2) + "\n")
        return
    with progress_bars() as progress:
        encoded = prepare.run(config, progress)
        report = prepared_report.run(encoded, progress)
    _show_splits(f"{config.data.name}: contract {encoded.contract.fingerprint}", report)
    _show_features(report)
    if counts := {what: number for what, number in encoded.manifest.counts.items() if number}:
        show_table(
            "Left out, filled, mended or repeated", ("what", "number"), [(w, f"{n:,}") for w, n in counts.items()]
        )
    for number, each in enumerate(report.findings, start=1):
        _say(f"{number}. {each.subject}: {each.found}.\n   Usually: {each.means}.\n   Mend: {each.do}.")
    if not report.findings:
        _say("Nothing stands out: no feature knows the label, none is empty, every segment has rows.")
    _say(f"Prepared in {encoded.root}\nNext: {shlex.join(['recsys', 'train', *arguments.overrides])}")


def _document(encoded: EncodedDataset, report: PreparedReport) -> dict[str, Any]:
    names = {"path": str(encoded.root), "name": encoded.contract.schema.name, "contract": encoded.contract.fingerprint}
    return {**names, "counts": encoded.manifest.counts, **report.to_document()}


def _show_splits(title: str, report: PreparedReport) -> None:
    header = ("split", "rows", "first", "last", "positive", "users", "items", "unseen users", "unseen items")
    rows = [
        (
            each.split,
            f"{each.rows:,}",
            each.first_day,
            each.last_day,
            f"{each.label_rate:.2%}",
            f"{each.known_users:,}",
            f"{each.known_items:,}",
            f"{each.unseen_user_share:.1%}",
            f"{each.unseen_item_share:.1%}",
        )
        for each in report.splits
    ]
    show_table(f"{title}; users and items as training knows them, unseen ones by their rows", header, rows)
    names = [each.segment for each in report.splits[0].segments]
    segments = [(name, *(_segment(each, place) for each in report.splits)) for place, name in enumerate(names)]
    show_table("Rows by user segment, and positive ones", ("", *(each.split for each in report.splits)), segments)


def _segment(split: SplitSummary, place: int) -> str:
    each = split.segments[place]
    return "0" if each.label_rate is None else f"{each.rows:,} ({each.label_rate:.2%})"


def _show_features(report: PreparedReport) -> None:
    looked_at = ", ".join(f"{each.rows_looked_at:,} {each.split}" for each in report.splits if each.rows_looked_at)
    header = ("", "kind", *("rows with a value", "in validation"), "length", *("AUC", "in validation", "of known"))
    rows = [
        (
            each.name,
            each.kind,
            _cell(each.training.coverage, "{:.1%}"),
            _cell(each.validation.coverage if each.validation else None, "{:.1%}"),
            _cell(each.training.mean_length, "{:.1f}"),
            *(_cell(value.value if value else None, "{:.3f}") for value in _aucs(each)),
        )
        for each in report.features
    ]
    show_table(f"Each feature by itself, in {looked_at} rows", header, rows)


def _aucs(feature: FeatureSummary) -> tuple[MeasuredAuc | None, ...]:
    later = feature.validation
    return feature.training.auc, later.auc if later else None, feature.known_auc


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
