"""Advice on how rows are written: each is given where it is due, with its gain, and not where it is not."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.inspection import advice as module
from recsys.inspection.advice import MeasuredSample, ReadingCost, advise, as_written, measure, read_sample, write
from recsys.inspection.footers import inspect_parquet

ROWS = 40_000
WELL = {"compression": "zstd", "write_page_checksum": True, "row_group_size": ROWS}


def columns(**changed: Any) -> dict[str, Any]:
    """Rows that gain from nothing when written WELL: ids as int32, sorted by user, the rest drawn at random."""
    random = np.random.default_rng(0)
    drawn = {
        "user": np.sort(random.integers(0, 5000, ROWS)).astype(np.int32),
        "price": random.integers(0, 900, ROWS).astype(np.float32),
        "label": random.integers(0, 2, ROWS).astype(np.float32),
    }
    return {**drawn, **changed}


def by_bytes(sample: pa.Table, writings: Sequence[dict[str, Any]]) -> list[ReadingCost]:
    """A cost without a clock: a nanosecond a byte on disk, and ten microseconds for every row group."""
    files = [write(sample, writing) for writing in writings]
    groups = [pq.read_metadata(pa.BufferReader(file)).num_row_groups for file in files]
    return [
        ReadingCost(file.size / sample.num_rows, (file.size * 1e-3 + 10 * count) / sample.num_rows)
        for file, count in zip(files, groups, strict=True)
    ]


@pytest.fixture(autouse=True)
def costs_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", by_bytes)


def advised(path: Path) -> MeasuredSample:
    facts = inspect_parquet(path)
    return advise(facts, read_sample(facts))


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write_rows(rows: dict[str, Any], **options: Any) -> Path:
        pq.write_table(pa.table(rows), tmp_path / "rows.parquet", **{**WELL, **options})
        return tmp_path

    return write_rows


def test_rows_that_are_written_well_get_no_advice(written: Callable[..., Path]):
    found = advised(written(columns()))
    assert found.advice == []
    assert found.cost_now == found.cost_by_codec["ZSTD"] == found.cost_with_all_advice


@pytest.mark.parametrize(
    ("subject", "options", "names", "writing"),
    [
        ("row groups", {"row_group_size": 1000}, "40 of 1,000 rows", {"row_group_size": 131_072}),
        ("codec", {"compression": "none"}, "compressed by NONE", {"compression": "ZSTD"}),
    ],
)
def test_what_can_be_mended_is_advised_with_what_it_gains(
    written: Callable[..., Path], subject: str, options: dict[str, Any], names: str, writing: dict[str, Any]
):
    path = written(columns(), **options)
    found = advised(path)
    (advice,) = found.advice
    assert (advice.subject, advice.writing) == (subject, writing)
    assert names in advice.found
    assert advice.after.is_better_than(found.cost_now)
    # Written as advised, the rows cost what was promised, and no further advice is due.
    again = advised(written(columns(), **{**options, **writing}))
    assert (again.advice, again.cost_now) == ([], advice.after)


def test_row_groups_that_are_read_in_parts_are_advised_against_whatever_they_cost(written: Callable[..., Path]):
    rows = {"flag": np.zeros(600_000, np.int8)}
    found = advised(written(rows, row_group_size=260_000)).advice
    assert "row groups" not in [advice.subject for advice in found]
    advice = advised(written(rows, row_group_size=600_000)).advice[0]
    assert "1 of 600,000 rows (the middle one) in 1 files, which are read in parts" in advice.found


def test_all_advice_together_gains_more_than_any_of_it(written: Callable[..., Path]):
    found = advised(written(columns(), row_group_size=1000, compression="none"))
    assert [advice.subject for advice in found.advice] == ["row groups", "codec"]
    for advice in found.advice:
        assert found.cost_with_all_advice.decode_us_per_row < advice.after.decode_us_per_row
        assert found.cost_with_all_advice.bytes_per_row < advice.after.bytes_per_row


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": {"user": "snappy", "price": "none", "label": "lz4"}},
        {"use_dictionary": ["label"]},
        {"use_dictionary": False, "column_encoding": {"user": "DELTA_BINARY_PACKED", "price": "BYTE_STREAM_SPLIT"}},
        {"row_group_size": 500},
    ],
)
def test_rows_are_written_as_they_were(written: Callable[..., Path], options: dict[str, Any]):
    path = written(columns(), **options)
    facts = inspect_parquet(path)
    sample = read_sample(facts)
    again = write(sample, as_written(facts, sample))
    before, after = pq.read_metadata(path / "rows.parquet"), pq.read_metadata(pa.BufferReader(again))
    # The sample is at most 64 of the row groups, from the middle.
    first = (before.num_row_groups - after.num_row_groups) // 2
    for place in range(after.num_row_groups):
        for one, other in zip(
            before.row_group(first + place).to_dict()["columns"],
            after.row_group(place).to_dict()["columns"],
            strict=True,
        ):
            assert one["encodings"] == other["encodings"]
            assert one["compression"] == other["compression"]
            assert one["total_compressed_size"] == other["total_compressed_size"]


def test_only_the_columns_that_the_loader_reads_are_sampled_and_written_as_they_were(written: Callable[..., Path]):
    path = written(columns(), compression={"user": "snappy", "price": "none", "label": "lz4"})
    facts = inspect_parquet(path)
    read = [replace(column, is_read=column.path != "price") for column in facts.columns]
    facts = replace(facts, columns=read, read_columns=["user", "label"])
    sample = read_sample(facts)
    assert sample.column_names == ["user", "label"]
    assert as_written(facts, sample)["compression"] == {"user": "SNAPPY", "label": "LZ4"}


def test_a_sample_of_small_row_groups_is_made_of_neighbours_and_of_a_large_one_its_beginning(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "GROUP_ROWS", 3500)
    path = written(columns(), row_group_size=1000)
    # Rows 18,000 to 21,500 of 40,000: four row groups in the middle.
    sample = read_sample(inspect_parquet(path))
    assert sample.equals(pq.read_table(path / "rows.parquet").slice(18_000, 3500).combine_chunks())
    path = written({"flag": np.zeros(300_000, np.int8)}, row_group_size=300_000)
    assert read_sample(inspect_parquet(path)).num_rows == 3 * 3500
    path = written(columns(), row_group_size=ROWS)
    sample = read_sample(inspect_parquet(path))
    assert sample.equals(pq.read_table(path / "rows.parquet").slice(0, 3500).combine_chunks())


def test_a_damaged_row_group_is_refused_with_its_file(written: Callable[..., Path]):
    path = written(columns(), compression="zstd") / "rows.parquet"
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet, row group 0: cannot be decoded"):
        read_sample(inspect_parquet(path))


def test_the_least_of_a_writing_s_decodings_counts(monkeypatch: pytest.MonkeyPatch):
    sample, writing = pa.table({"id": [1, 2]}), {"compression": "ZSTD", "row_group_size": 100}
    # Two writings in turns: began and ended, five times each; 9, 4, 6, 5, 7 seconds for the first, 1 for the second.
    spent = [9.0, 1.0, 4.0, 1.0, 6.0, 1.0, 5.0, 1.0, 7.0, 1.0]
    ticks = chain.from_iterable((0.0, seconds) for seconds in spent)
    monkeypatch.setattr(module, "thread_time", lambda: next(ticks))
    first, second = measure(sample, [writing, writing])
    assert (first.decode_us_per_row, second.decode_us_per_row) == (4e6 / 2, 1e6 / 2)
    assert first.bytes_per_row == write(sample, writing).size / 2


@pytest.mark.parametrize(("share", "subjects"), [(0.96, []), (0.90, ["row groups"])])
def test_a_gain_within_the_noise_is_no_advice(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, share: float, subjects: list[str]
):
    now = ReadingCost(10.0, 1.0)
    costs = [now, ReadingCost(10.0, share), *[now] * 4]
    monkeypatch.setattr(module, "measure", lambda sample, writings: costs)
    assert [each.subject for each in advised(written(columns(), row_group_size=1000)).advice] == subjects


@pytest.mark.parametrize(
    ("size", "time", "is_better"), [(0.9, 1.04, True), (0.9, 1.06, False), (0.96, 0.96, False), (1.04, 0.9, True)]
)
def test_what_gains_in_one_way_must_not_cost_as_much_in_the_other(size: float, time: float, is_better: bool):
    assert ReadingCost(10 * size, 2 * time).is_better_than(ReadingCost(10.0, 2.0)) == is_better
