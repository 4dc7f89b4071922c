"""Golden rows: what the ranker said in training, held against the served model in a process of its own."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.decode import raw_rows
from recsys.errors import BusyError
from recsys.nightly import golden_rows
from recsys.nightly.golden_rows import GOLDEN, check_in_fresh_process, compared, keep_golden_rows
from tests.nightly.made_nights import MadeNights


@pytest.fixture
def nights(made: MadeNights) -> MadeNights:
    return made


@pytest.fixture
def night(nights: MadeNights) -> Path:
    folder = nights.root / "champion"
    keep_golden_rows(nights.config, nights.encoded, folder)
    return folder


def checked(folder: Path) -> golden_rows.GoldenCheck:
    """What the fresh process finds, found in this one."""
    return golden_rows._scored(folder, 1e-6)


def copied(night: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(night, tmp_path / "night"))


def test_the_newest_rows_are_kept_with_what_the_ranker_in_memory_said_of_them(nights: MadeNights, night: Path):
    kept = pq.read_table(night / GOLDEN / "rows.parquet")
    expected = pq.read_table(night / GOLDEN / "expected.parquet")["probability"].to_numpy()

    newest = pa.concat_tables(raw_rows(nights.encoded, "test")).slice(240 - 70)
    logit = nights.predictions(seed=1).logit[-70:].astype(np.float64)
    assert kept.equals(newest.combine_chunks().cast(kept.schema))
    np.testing.assert_allclose(expected, 1 / (1 + np.exp(-logit)), rtol=1e-12)


def test_where_there_are_fewer_rows_all_are_kept(nights: MadeNights, night: Path, tmp_path: Path):
    folder = copied(night, tmp_path)
    shutil.rmtree(folder / GOLDEN)
    promotion = replace(nights.config.daily.promotion, golden_rows=10_000)
    config = replace(nights.config, daily=replace(nights.config.daily, promotion=promotion))

    keep_golden_rows(config, nights.encoded, folder)

    assert checked(folder).rows == 240
    assert checked(folder).fault == ""


def test_kept_already_they_stay_as_they_are(nights: MadeNights, night: Path):
    before = {path: path.stat().st_mtime_ns for path in (night / GOLDEN).iterdir()}
    keep_golden_rows(nights.config, nights.encoded, night)
    assert {path: path.stat().st_mtime_ns for path in (night / GOLDEN).iterdir()} == before


def test_a_fresh_process_scores_them_equal_and_runs_no_code_of_the_model(
    nights: MadeNights, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = copied(night, tmp_path)
    payload = f"open({str(tmp_path / 'ran')!r}, 'w')"
    for name in ("model/served_model.py", "model/code/recsys/__init__.py", "recsys.py", "numpy.py"):
        (folder / name).write_text(payload)
    monkeypatch.chdir(folder)

    found = check_in_fresh_process(nights.config, folder)

    assert (found.rows, found.fault, found.tolerance) == (70, "", 1e-6)
    assert found.largest_difference is not None
    assert found.largest_difference < 1e-6
    assert not (tmp_path / "ran").exists()


def test_a_model_with_other_weights_is_found_out(nights: MadeNights, night: Path, tmp_path: Path):
    folder = copied(night, tmp_path)
    shutil.rmtree(folder / "model")
    nights.serve(folder / "model", seed=2)

    assert checked(folder).fault.startswith("70 of 70 rows differ by more than 1e-06, most of all row ")


def test_a_model_that_cannot_be_loaded_is_a_fault_that_names_the_file(night: Path, tmp_path: Path):
    folder = copied(night, tmp_path)
    with next(folder.glob("model/**/weights.safetensors")).open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\xff")

    found = checked(folder)

    assert found.rows == 0
    assert "weights.safetensors is missing or was changed" in found.fault


def test_probabilities_that_are_no_numbers_are_a_fault():
    found = compared(np.array([0.5, 0.5]), np.array([np.nan, 0.5]), 1e-6)
    assert (found.largest_difference, found.fault.split(",")[0]) == (1.0, "1 of 2 rows differ by more than 1e-06")


@pytest.mark.parametrize("code", [-9, -15])
def test_a_process_that_was_killed_says_nothing_about_the_model(nights: MadeNights, night, monkeypatch, code: int):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    with pytest.raises(BusyError, match=rf"{night}/model was killed by signal {-code}.*Start the run again"):
        check_in_fresh_process(nights.config, night)


def test_a_process_that_takes_for_ever_says_nothing_about_the_model(nights: MadeNights, night, monkeypatch):
    monkeypatch.setattr(golden_rows, "_PATIENCE_SECONDS", 0.01)
    with pytest.raises(BusyError, match=r"did not end within 0.01 s"):
        check_in_fresh_process(nights.config, night)


def test_a_process_that_fails_is_a_fault_with_its_last_word(nights: MadeNights, night, monkeypatch):
    ended = SimpleNamespace(returncode=1, stderr="Traceback\nImportError: no module named fbgemm_gpu\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    found = check_in_fresh_process(nights.config, night)
    assert found.fault == "the process ended with 1: ImportError: no module named fbgemm_gpu"


@pytest.mark.parametrize(
    ("device", "matmul", "tolerance"),
    [("cpu", "tf32", 1e-6), ("cuda", "highest", 1e-5), ("cuda", "tf32", 1e-2)],
)
def test_what_may_differ_follows_from_what_the_ranker_was_scored_on(
    nights: MadeNights, monkeypatch: pytest.MonkeyPatch, device: str, matmul: str, tolerance: float
):
    monkeypatch.setattr(golden_rows, "device_kind", lambda wished: device)
    config = replace(nights.config, training=replace(nights.config.training, matmul=matmul))
    assert golden_rows._tolerance(config) == tolerance
