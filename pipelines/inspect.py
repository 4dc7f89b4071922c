"""What stands in a folder of Parquet files, what the loader would do with it, and what to write otherwise."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.console import console, progress_bars, show_table
from recsys.config import RunConfig
from recsys.datasets.encoded import open_encoded
from recsys.datasets.manifest import CONTRACT_NAME
from recsys.progress import Progress, silent
from recsys.run.assemble import with_budget
from recsys.streaming.advice import Advised, advise
from recsys.streaming.inspection import Column, Group, Inspection, inspect_parquet, text_of
from recsys.streaming.parquet import encoded_columns
from recsys.streaming.plan import LoadingPlan, plan_loading
from recsys.streaming.trials import count_distinct, read_sample

_SPLIT = "split"
_FEW = 8


@dataclass(frozen=True)
class Findings:
    """Everything that is told about one path.

    Attributes:
        read: the columns that the loader reads: those of the contract in an encoded folder, all elsewhere.
        distinct: values of each column, at least, in `sample_rows` rows.
        plans: by split; by "" where the folders name none.
    """

    inspection: Inspection
    read: frozenset[str]
    distinct: Mapping[str, int]
    sample_rows: int
    batch_size: int
    plans: Mapping[str, LoadingPlan]
    advised: Advised


def run(path: Path, config: RunConfig, progress: Progress) -> Findings:
    """Inspect, plan with the configured training settings, and advise.

    Raises:
        DataError: no Parquet there, none with rows, or a damaged file; names it.
    """
    inspection = inspect_parquet(path, progress)
    progress("read a sample", 0, 1)
    sample = read_sample(inspection)
    distinct = count_distinct(inspection, sample)
    progress("read a sample", 1, 1)
    names = _read_names(path, sample.column_names)
    read = frozenset(column.path for column in inspection.columns if column.path.split(".")[0] in names)
    sample = sample.select([name for name in sample.column_names if name in names])
    training = with_budget(config.training, inspection.rows)
    assert training.batch_size is not None
    plans = {
        split: plan_loading(
            group_rows,
            batch_size=training.batch_size,
            shuffle_buffer_rows=training.shuffle_buffer_rows,
            decode_threads=training.decode_threads,
            decoded_bytes_per_row=sample.nbytes / sample.num_rows,
        )
        for split, group_rows in _by_split(inspection).items()
    }
    progress("try other ways of writing", 0, 1)
    chosen = replace(inspection, columns=tuple(column for column in inspection.columns if column.path in read))
    advised = advise(chosen, sample, distinct, training.shuffle_buffer_rows)
    progress("try other ways of writing", 1, 1)
    return Findings(inspection, read, distinct, sample.num_rows, training.batch_size, plans, advised)


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Inspect and print."""
    if arguments.json:
        findings = run(Path(arguments.path), config, silent)
        sys.stdout.write(json.dumps(document(findings), indent=2) + "\n")
        return
    with progress_bars() as progress:
        findings = run(Path(arguments.path), config, progress)
    _print(findings, config)


def document(findings: Findings) -> dict[str, Any]:
    """Return the findings as plain JSON values."""
    inspection = findings.inspection
    return {
        "path": str(inspection.path),
        "rows": inspection.rows,
        "files": len(inspection.files),
        "bytes": sum(file.bytes for file in inspection.files),
        "other_files": [str(file.path) for file in inspection.other_files],
        "written_by": sorted({file.created_by for file in inspection.files}),
        "partitions": {key: list(values) for key, values in inspection.partitions.items()},
        "row_groups": len(inspection.groups),
        "row_group_rows": _spread_of(inspection.groups),
        "row_groups_with_statistics": inspection.groups_with_statistics,
        "sample_rows": findings.sample_rows,
        "columns": [_column_document(column, findings) for column in inspection.columns],
        "loader": {split: asdict(plan) for split, plan in findings.plans.items()},
        "advice": [asdict(advice) for advice in findings.advised.advice],
        "cost_now": asdict(findings.advised.now),
        "cost_with_all_advice": asdict(findings.advised.together) if findings.advised.together else None,
        "cost_by_codec": {codec: asdict(cost) for codec, cost in findings.advised.codecs.items()},
    }


def _column_document(column: Column, findings: Findings) -> dict[str, Any]:
    plain = {"minimum": _plain(column.minimum), "maximum": _plain(column.maximum)}
    return {
        **asdict(column),
        **plain,
        "codecs": dict(column.codecs),
        "encodings": list(column.encodings),
        "distinct_in_sample": findings.distinct[column.path],
        "is_read": column.path in findings.read,
    }


def _plain(value: Any) -> Any:
    # JSON has no word for what is not finite.
    is_plain = value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else text_of(value)


def _read_names(path: Path, names: Sequence[str]) -> set[str]:
    """Those of the columns that the loader reads."""
    if not (path / CONTRACT_NAME).is_file():
        return set(names)
    return set(encoded_columns(open_encoded(path).contract, ()))


def _by_split(inspection: Inspection) -> dict[str, list[int]]:
    """The sizes of the row groups of each split."""
    groups: dict[str, list[int]] = {}
    for file in inspection.files:
        if file.groups:
            groups.setdefault(file.partitions.get(_SPLIT, ""), []).extend(group.rows for group in file.groups)
    return groups


def _spread_of(groups: Sequence[Group]) -> dict[str, int]:
    rows = sorted(group.rows for group in groups)
    return {"least": rows[0], "middle": rows[(len(rows) - 1) // 2], "most": rows[-1]}


def _print(findings: Findings, config: RunConfig) -> None:
    inspection, spread = findings.inspection, _spread_of(findings.inspection.groups)
    size = sum(file.bytes for file in inspection.files)
    _say(
        f"{inspection.path}: {inspection.rows:,} rows in {len(inspection.files):,} files of {size / 1e6:,.1f} MB "
        f"({size / inspection.rows:.1f} bytes a row); {len(inspection.groups):,} row groups of {spread['least']:,} to "
        f"{spread['most']:,} rows, the middle one {spread['middle']:,}"
    )
    for key, values in inspection.partitions.items():
        _say(f"partition {key}: {_first_few(values)}")
    if inspection.other_files:
        others = _first_few([str(file.path) for file in inspection.other_files])
        _say(f"left aside, as their columns are others: {others}")
    if inspection.groups_with_statistics < len(inspection.groups):
        _say(f"column figures are those of {inspection.groups_with_statistics:,} row groups, spread over all")
    _print_columns(findings)
    _print_plans(findings, config)
    _print_advice(findings.advised, findings.sample_rows)


def _print_columns(findings: Findings) -> None:
    header = ("column", "type", "codec", "encoding", "bytes/row", "null", "distinct*", "least and most")
    lines = [header, *(_column_line(column, findings) for column in findings.inspection.columns)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    # No table with a frame: there are too many columns for one, and a cell cut short tells nothing.
    for line in lines:
        _say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    _say(f"* at least, in {findings.sample_rows:,} rows")


def _column_line(column: Column, findings: Findings) -> tuple[str, ...]:
    is_known = column.minimum is not None
    return (
        column.path + ("" if column.path in findings.read else " (not read)"),
        column.type,
        column.codec.removesuffix("_RAW").lower(),
        " + ".join(column.encodings).replace("RLE_DICTIONARY", "dictionary").lower(),
        f"{column.bytes_per_row:.2f}",
        "?" if column.nulls is None else f"{column.nulls:,}{' or empty' if column.is_nested else ''}",
        f"{findings.distinct[column.path]:,}",
        f"{text_of(column.minimum)} to {text_of(column.maximum)}" if is_known else "?",
    )


def _print_plans(findings: Findings, config: RunConfig) -> None:
    training = config.training
    rows = [
        (
            split or "all",
            f"{plan.rows:,}",
            f"{plan.row_groups:,}",
            f"{plan.batches:,}",
            f"{plan.groups_in_parts:,}",
            f"{plan.groups_alone:,}",
            f"{plan.most_rows:,}",
            f"{plan.most_bytes / 1e6:,.0f} MB",
        )
        for split, plan in findings.plans.items()
    ]
    header = ("split", "rows", "row groups", "batches", "in parts", "permuted alone", "rows in memory", "memory")
    show_table(
        f"An epoch of the loader (training.batch_size={findings.batch_size}, "
        f"shuffle_buffer_rows={training.shuffle_buffer_rows}, decode_threads={training.decode_threads}); "
        "memory at most",
        header,
        rows,
    )


def _print_advice(advised: Advised, sample_rows: int) -> None:
    rows = [
        (codec.removesuffix("_RAW").lower(), f"{cost.decode_us_per_row:.3f}", f"{cost.bytes_per_row:.1f}")
        for codec, cost in advised.codecs.items()
    ]
    now = ("as it is", f"{advised.now.decode_us_per_row:.3f}", f"{advised.now.bytes_per_row:.1f}")
    show_table(
        f"The same {sample_rows:,} rows in every codec, decoded here in one thread",
        ("codec", "us/row", "bytes/row"),
        [now, *rows],
    )
    if not advised.advice:
        _say("Nothing to advise: they are written well.")
    for number, advice in enumerate(advised.advice, start=1):
        _say(f"{number}. {advice.subject}: {advice.found}.\n   Mend: {advice.do}.\n   Gain: {advice.gain}.")
    if advised.together and len(advised.advice) > 1:
        now_cost, then = advised.now, advised.together
        _say(
            f"All of it: decoding {now_cost.decode_us_per_row:.3f} -> {then.decode_us_per_row:.3f} us a row, "
            f"{now_cost.bytes_per_row:.1f} -> {then.bytes_per_row:.1f} bytes a row."
        )


def _first_few(values: Sequence[str]) -> str:
    shown = ", ".join(values[:_FEW])
    return shown if len(values) <= _FEW else f"{shown}, ... ({len(values):,} in all, the last {values[-1]})"


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
