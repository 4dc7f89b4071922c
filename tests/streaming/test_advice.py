"""Advice on how rows are written: each is given where it is due, with its gain, and not where it is not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.streaming import advice as module
from recsys.streaming.advice import Advised, advise
from recsys.streaming.inspection import inspect_parquet
from recsys.streaming.proposals import propose
from recsys.streaming.trials import Cost, Trial, Writing, as_written, count_distinct, measure, read_sample, write

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


def by_bytes(trials: Sequence[Trial]) -> list[Cost]:
    """A cost without a clock: a nanosecond a byte, on disk and in memory, and ten microseconds for every row group."""
    files = [write(trial) for trial in trials]
    groups = [pq.read_metadata(pa.BufferReader(file)).num_row_groups for file in files]
    return [
        Cost(
            file.size / trial.rows.num_rows,
            ((file.size + trial.rows.nbytes) * 1e-3 + 10 * count) / trial.rows.num_rows,
        )
        for trial, file, count in zip(trials, files, groups, strict=True)
    ]


def advised(path: Path, buffer_rows: int = 10**6) -> Advised:
    inspection = inspect_parquet(path)
    sample = read_sample(inspection)
    return advise(inspection, sample, count_distinct(inspection, sample), buffer_rows, by_bytes)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write_rows(rows: dict[str, Any], **options: Any) -> Path:
        pq.write_table(pa.table(rows), tmp_path / "rows.parquet", **{**WELL, **options})
        return tmp_path

    return write_rows


def test_rows_that_are_written_well_get_no_advice(written: Callable[..., Path]):
    found = advised(written(columns()))
    assert found.advice == ()
    assert found.together is None
    assert found.now == found.codecs["ZSTD"]


def repeated() -> dict[str, Any]:
    """Users with features of their own: in random order no codec sees what repeats."""
    user, item = np.random.default_rng(1).integers(0, 2000, (2, ROWS)).astype(np.int32)
    of_user = {"age": (user * 7919 % 997).astype(np.float32), "city": (user * 31 % 1009).astype(np.float32)}
    return columns(user=user, item=item, **of_user)


def pairs() -> list[list[int]]:
    drawn = np.random.default_rng(3).integers(3, 30_003, (ROWS, 2))
    drawn[0] = 3, 30_003
    return drawn.tolist()


def random_numbers() -> np.ndarray:
    return np.random.default_rng(2).standard_normal(ROWS)


@pytest.mark.parametrize(
    ("subject", "rows", "options", "names"),
    [
        ("row groups", columns(), {"row_group_size": 1000}, "40 row groups of 1,000 rows"),
        (
            "dictionary",
            columns(noise=random_numbers()),
            {"use_dictionary": ["user", "label"]},
            "`price` without a dictionary",
        ),
        (
            "no dictionary",
            columns(noise=random_numbers()),
            {"dictionary_pagesize_limit": 200_000},
            "`noise` with a dictionary that was given up",
        ),
        ("int32 ids", columns(item=np.arange(ROWS) * 50_000), {}, "`item` as int64, between 0 and 1,999,950,000"),
        ("int32 ids", columns(recent=pairs()), {}, "`recent` as int64, between 3 and 30,003"),
        ("sort order", repeated(), {}, "rows in an order that hides what repeats"),
        ("page checksums", columns(), {"write_page_checksum": False}, "without checksums"),
        ("codec", columns(), {"compression": "none"}, "compressed by UNCOMPRESSED"),
    ],
)
def test_what_can_be_mended_is_advised_with_what_it_gains(
    written: Callable[..., Path], subject: str, rows: dict[str, Any], options: dict[str, Any], names: str
):
    found = advised(written(rows, **options))
    (advice,) = [each for each in found.advice if each.subject == subject]
    assert names in advice.found
    assert advice.before == found.now
    assert advice.after is not None
    if subject != "page checksums":  # they cost a little, and are for another gain
        assert advice.after.bytes_per_row < 0.97 * found.now.bytes_per_row or (
            advice.after.decode_us_per_row < 0.97 * found.now.decode_us_per_row
        )
    assert f"{found.now.bytes_per_row:.1f} -> {advice.after.bytes_per_row:.1f} bytes a row" in advice.gain


def test_the_column_to_sort_by_is_the_one_that_the_others_follow(written: Callable[..., Path]):
    (advice,) = [each for each in advised(written(repeated())).advice if each.subject == "sort order"]
    assert "by `user` before writing" in advice.do


@pytest.mark.parametrize("most", [2**31, -(2**31) - 1])
def test_ids_that_need_64_bits_are_left_alone(written: Callable[..., Path], most: int):
    wide, narrow = np.arange(ROWS), np.arange(ROWS) * 50_000
    wide[-1] = most
    found = advised(written(columns(wide=wide, narrow=narrow)))
    (advice,) = [each for each in found.advice if each.subject == "int32 ids"]
    assert advice.found == "`narrow` as int64, between 0 and 1,999,950,000"


def test_row_groups_that_are_read_in_parts_are_advised_against(written: Callable[..., Path]):
    rows = {"flag": np.zeros(600_000, np.int8)}
    subjects = {}
    for size in (260_000, 600_000):
        found = advised(written(rows, row_group_size=size)).advice
        subjects[size] = {advice.subject: advice.gain for advice in found}
    assert "row groups" not in subjects[260_000]
    assert "several threads can decode at once" in subjects[600_000]["row groups"]


def test_all_advice_together_gains_more_than_any_of_it(written: Callable[..., Path]):
    bad = {"row_group_size": 1000, "use_dictionary": False, "compression": "none", "write_page_checksum": False}
    found = advised(written(repeated(), **bad))
    assert {advice.subject for advice in found.advice} >= {"row groups", "dictionary", "codec"}
    assert found.together is not None
    for advice in found.advice:
        assert advice.after is not None
        assert found.together.decode_us_per_row <= advice.after.decode_us_per_row
        assert found.together.bytes_per_row <= advice.after.bytes_per_row


def test_advice_that_changes_the_rows_and_advice_on_their_groups_add_up(written: Callable[..., Path]):
    wide = {f"item_{place}": np.random.default_rng(place).integers(0, 1000, ROWS) for place in range(4)}
    found = advised(written(wide, row_group_size=5000))
    costs = {advice.subject: advice.after.decode_us_per_row for advice in found.advice if advice.after}
    assert set(costs) >= {"row groups", "int32 ids"}
    assert found.together is not None
    assert found.together.decode_us_per_row < min(costs.values())


def test_rows_sorted_by_what_is_to_be_learned_are_found_where_the_shuffle_cannot_mix_them(
    written: Callable[..., Path],
):
    path = written(columns(label=np.repeat(np.float32([0, 1]), ROWS // 2)), row_group_size=ROWS // 8)
    (advice,) = [each for each in advised(path, buffer_rows=ROWS // 4).advice if each.subject == "order of rows"]
    assert "`label`" in advice.found
    assert "25%" in advice.gain
    assert "order of rows" not in {each.subject for each in advised(path, buffer_rows=ROWS).advice}


def test_rows_in_the_order_of_time_are_as_they_should_be(written: Callable[..., Path]):
    rows = columns(time=pa.array(np.arange(ROWS), pa.timestamp("us")), month=np.arange(ROWS, dtype=np.int32) // 10_000)
    path = written(rows, row_group_size=ROWS // 8)
    assert "order of rows" not in {each.subject for each in advised(path, buffer_rows=100).advice}


def test_a_number_of_the_row_is_no_order_to_warn_of(written: Callable[..., Path]):
    numbered = {"row": np.arange(ROWS, dtype=np.int32), "label": columns()["label"]}
    path = written(numbered, row_group_size=ROWS // 8)
    assert "order of rows" not in {each.subject for each in advised(path, buffer_rows=100).advice}


def test_every_proposal_keeps_every_row(written: Callable[..., Path]):
    bad = {"row_group_size": 1000, "use_dictionary": False, "write_page_checksum": False}
    lists = [[i % 7] * (i % 3) for i in range(ROWS)]
    path = written({**repeated(), "wide": np.arange(ROWS), "lists": lists}, **bad)
    inspection = inspect_parquet(path)
    sample = read_sample(inspection)
    proposals = [*propose(inspection, sample, count_distinct(inspection, sample), as_written(inspection))]
    assert len(proposals) >= 4
    for proposal in proposals:
        back = pq.read_table(pa.BufferReader(write(proposal.trial(sample)))).sort_by("wide")
        assert back.cast(sample.schema).equals(sample.sort_by("wide")), proposal.subject


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip", "compression_level": 6},
        {"compression": {"user": "snappy", "price": "none", "label": "lz4"}},
        {"use_dictionary": ["label"]},
        {"use_dictionary": False, "column_encoding": {"user": "DELTA_BINARY_PACKED", "price": "BYTE_STREAM_SPLIT"}},
        {"row_group_size": 500, "write_page_checksum": False},
    ],
)
def test_rows_are_written_as_they_were(written: Callable[..., Path], options: dict[str, Any]):
    path = written(columns(), **options)
    inspection = inspect_parquet(path)
    again = write(Trial(read_sample(inspection), as_written(inspection)))
    before, after = pq.read_metadata(path / "rows.parquet"), pq.read_metadata(pa.BufferReader(again))
    # The sample is at most 64 of the row groups.
    for place in range(min(before.num_row_groups, after.num_row_groups)):
        for one, other in zip(
            before.row_group(place).to_dict()["columns"], after.row_group(place).to_dict()["columns"], strict=True
        ):
            assert one["encodings"] == other["encodings"]
            assert one["compression"] == other["compression"]
            assert one["total_compressed_size"] == other["total_compressed_size"]


def test_a_sample_of_small_row_groups_is_made_of_neighbours_and_of_a_large_one_its_beginning(
    written: Callable[..., Path],
):
    path = written(columns(), row_group_size=1000)
    inspection = inspect_parquet(path)
    assert read_sample(inspection, most_rows=3500).num_rows == 3500
    path = written({"flag": np.zeros(300_000, np.int8)}, row_group_size=300_000)
    assert read_sample(inspect_parquet(path), most_rows=3500).num_rows == 3 * 3500
    path = written(columns(), row_group_size=ROWS)
    sample = read_sample(inspect_parquet(path), most_rows=3500)
    assert sample.equals(pq.read_table(path / "rows.parquet").slice(0, 3500).combine_chunks())


def test_distinct_values_are_counted_in_the_sample_or_told_by_a_larger_dictionary(written: Callable[..., Path]):
    inspection = inspect_parquet(written(columns(lists=[[1, 2], [3]] * (ROWS // 2))))
    distinct = count_distinct(inspection, read_sample(inspection, most_rows=10))
    assert distinct["label"] == 2
    assert distinct["user"] == len(np.unique(columns()["user"]))
    inspection = inspect_parquet(written(columns(lists=[[1, 2], [3]] * (ROWS // 2)), use_dictionary=False))
    distinct = count_distinct(inspection, read_sample(inspection))
    assert (distinct["label"], distinct["lists.list.element"]) == (2, 3)


def test_the_least_of_a_trial_s_decodings_counts():
    trial = Trial(pa.table({"id": [1, 2]}), Writing(("ZSTD",), frozenset([0]), {}, 100, True))
    # Two trials in turns: began and ended, five times each; 9, 4, 6, 5, 7 seconds for the first and 1 for the second.
    spent = [9.0, 1.0, 4.0, 1.0, 6.0, 1.0, 5.0, 1.0, 7.0, 1.0]
    ticks = iter([tick for seconds in spent for tick in (0.0, seconds)])
    first, second = measure([trial, trial], clock=lambda: next(ticks))
    assert (first.decode_us_per_row, second.decode_us_per_row) == (4e6 / 2, 1e6 / 2)
    assert first.bytes_per_row == write(trial).size / 2


def test_a_gain_within_the_noise_is_no_advice(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    path = written(columns(), row_group_size=1000)
    monkeypatch.setattr(module, "propose", lambda *arguments: list(propose(*arguments))[:1])
    inspection = inspect_parquet(path)
    sample = read_sample(inspection)
    distinct = count_distinct(inspection, sample)

    def told(share: float) -> Callable[[Sequence[Trial]], list[Cost]]:
        now = Cost(10.0, 1.0)
        return lambda trials: [now, Cost(10.0, share), *[now] * (len(trials) - 2)]

    assert advise(inspection, sample, distinct, 10**6, told(0.96)).advice == ()
    assert [each.subject for each in advise(inspection, sample, distinct, 10**6, told(0.90)).advice] == ["row groups"]
