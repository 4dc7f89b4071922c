"""Rows with the probabilities that the ranker gave them in training, scored once more by the served model alone.

The newest test rows are kept as they were before encoding, beside what the ranker in memory said of them as encoded
rows. A fresh process then loads the served model, which holds data and no code that it runs, and scores the raw ones.
So a weight, a vocabulary or a scaling that did not come through the export, or a loader that no longer reads it, is
found before the model is anybody's champion.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.special import expit

from recsys.artifacts.export import PROBABILITY, load_scorer
from recsys.config import RunConfig
from recsys.datasets.decode import raw_rows
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import BusyError, RecsysError
from recsys.evaluation.stored_predictions import load_predictions
from recsys.files import published_directory
from recsys.run.folder import PREDICTIONS
from recsys.run.serving import MODEL
from recsys.run.streams import TEST
from recsys.sharding.processes import device_kind
from recsys.training.precision import HIGHEST

GOLDEN = "golden"
_ROWS, _EXPECTED = "rows.parquet", "expected.parquet"
# Of a probability. The two are not equal to the bit: sums are taken in another order for another number of rows, and
# raw numbers went through their encoding once more. On a GPU kernels differ too, and `training.matmul=tf32` scores with
# 11 bits of each factor where the served model has all.
_TOLERANCE, _TOLERANCE_OF_GPU, _TOLERANCE_OF_TF32 = 1e-6, 1e-5, 1e-2
_PATIENCE_SECONDS = 900.0
_LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class GoldenCheck:
    """What a fresh process found.

    Attributes:
        rows: how many were scored.
        largest_difference: of a probability from the expected one; None where none were scored.
        tolerance: how large it may be.
        fault: what is wrong, as a sentence; empty where the rows are scored as they were in training.
    """

    rows: int
    largest_difference: float | None
    tolerance: float
    fault: str


def keep_golden_rows(config: RunConfig, encoded: EncodedDataset, folder: Path) -> None:
    """Write the newest test rows of the finished run in `folder` beside its model; done already, nothing happens.

    Raises:
        DataError: the run's predictions cannot be read.
        CannotWriteError: the folder cannot be written.
    """
    if (folder / GOLDEN).is_dir():
        return
    logit = load_predictions(folder / PREDICTIONS).logit
    rows = _newest_rows(encoded, config.daily.promotion.golden_rows)
    expected = expit(logit[-rows.num_rows :].astype(np.float64))
    with published_directory(folder / GOLDEN) as work:
        pq.write_table(rows, work / _ROWS, write_page_checksum=True)
        pq.write_table(pa.table({PROBABILITY: expected}), work / _EXPECTED, write_page_checksum=True)


def check_in_fresh_process(config: RunConfig, folder: Path) -> GoldenCheck:
    """Score the golden rows of the run in `folder` by its served model, in a process that is started for it.

    Raises:
        BusyError: the process was killed or came to no end, which says nothing about the model.
    """
    package_root = Path(__file__).resolve().parents[2]
    with TemporaryDirectory() as scratch:
        answer = Path(scratch, "answer.json")
        # -P: what lies in the working folder is not imported.
        command = [sys.executable, "-P", "-m", __name__, str(folder.absolute()), str(answer)]
        command += [repr(_tolerance(config)), str(config.runtime.cores)]
        path = os.pathsep.join(filter(None, [str(package_root), os.environ.get("PYTHONPATH")]))
        try:
            ended = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BusyError(
                f"{_process(folder)} did not end within {error.timeout:g} s. Start the run again."
            ) from None
        if ended.returncode < 0:
            raise BusyError(
                f"{_process(folder)} was killed by signal {-ended.returncode}; it may have been the lack of memory. "
                "Start the run again."
            )
        if ended.returncode or not answer.is_file():
            said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1][:_LONGEST_REASON]
            return GoldenCheck(0, None, _tolerance(config), f"the process ended with {ended.returncode}: {said}")
        return GoldenCheck(**json.loads(answer.read_text(encoding="utf-8")))


def _process(folder: Path) -> str:
    return f"The process that scores the golden rows by {folder / MODEL}"


def _tolerance(config: RunConfig) -> float:
    if device_kind(config.runtime.device) == "cpu":
        return _TOLERANCE
    return _TOLERANCE_OF_GPU if config.training.matmul == HIGHEST else _TOLERANCE_OF_TF32


def _newest_rows(encoded: EncodedDataset, count: int) -> pa.Table:
    days: list[str] = []
    held = 0
    for day, rows in reversed(encoded.days(TEST).items()):
        if held >= count:
            break
        days, held = [day, *days], held + rows
    table = pa.concat_tables(raw_rows(encoded, TEST, days))
    return table.slice(max(0, table.num_rows - count)).combine_chunks()


def _scored(folder: Path, tolerance: float) -> GoldenCheck:
    """Score them in this process."""
    expected = pq.read_table(folder / GOLDEN / _EXPECTED)[PROBABILITY].to_numpy()
    try:
        # They were read back under the schema's names and not those of a user's files, their past counted already.
        scorer = replace(load_scorer(folder / MODEL), reader=None)
        found = scorer.score(pq.read_table(folder / GOLDEN / _ROWS))
    except RecsysError as error:
        return GoldenCheck(0, None, tolerance, str(error))
    return compared(expected, found, tolerance)


def compared(expected: NDArray[np.float64], found: NDArray[np.float64], tolerance: float) -> GoldenCheck:
    """Hold the probabilities (N,) of a served model against those (N,) of the ranker.

    >>> compared(np.array([0.25, 0.5]), np.array([0.25, 0.75]), 1e-6).fault
    '1 of 2 rows differ by more than 1e-06, most of all row 1: expected 0.5, found 0.75.'
    """
    difference = np.nan_to_num(np.abs(found - expected), nan=1.0)
    worst, off = int(difference.argmax()), int((difference > tolerance).sum())
    fault = (
        f"{off} of {len(expected)} rows differ by more than {tolerance:g}, most of all row {worst}: expected "
        f"{expected[worst]:.8g}, found {found[worst]:.8g}."
    )
    return GoldenCheck(len(expected), float(difference.max()), tolerance, fault if off else "")


if __name__ == "__main__":
    run_folder, answer_file, allowed, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    text = json.dumps(asdict(_scored(Path(run_folder), float(allowed))))
    Path(answer_file).write_text(text, encoding="utf-8")
