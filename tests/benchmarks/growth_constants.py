"""What is done once for all processes, or by each of them for all rows: its cost for one of many.

`docs/cluster.md` reckons with these numbers what comes with a hundred machines. Seconds are of the processors.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch.distributed as dist
from growth_process import ROWS_OF_A_FILE, contract, link_rows, make_files

from recsys.evaluation.split_evaluation import evaluate
from recsys.metrics.predictions import USER, Predictions
from recsys.streaming.rows import open_rows
from recsys.streaming.shuffle import EpochOrder

_SCORED_ROWS, _FILES, _REQUESTS = 2_000_000, 2000, 2000
_TABLE_ROWS, _RANKS = 8000, 800
_SEGMENTS = ("a", "b", "c", "d")


def constants(folder: Path) -> dict[str, float]:
    """Measure all of them.

    Returns:
        `metrics_us_per_row` and `user_metrics_us_per_row`: of a validation's rows, and of test rows, which have users,
        in every process. `footer_us_per_file` and `order_us_per_group`: in every process at the start, and at the start
        of an epoch of 800 processes. `store_us_per_request`: of both ends, over loopback.
    """
    draw, rows = np.random.default_rng(4), _SCORED_ROWS
    logit = draw.standard_normal(rows).astype(np.float32)
    label = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    users = {USER: draw.integers(0, rows // 25, rows)}
    scored = Predictions(logit, label, draw.integers(0, 4, rows), np.ones(rows, np.float32))
    make_files(folder / "files", _TABLE_ROWS, 1)
    link_rows(folder / "files", folder / "rows", _FILES * ROWS_OF_A_FILE)
    opened = open_rows(folder / "rows", "train", contract(_TABLE_ROWS), (), ())
    order = EpochOrder(opened.groups, seed=1, shuffle=True, buffer_rows=400_000)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=60))
    store.set("key", "value")
    metrics = _seconds(lambda: evaluate(scored, _SEGMENTS))
    of_users = _seconds(lambda: evaluate(replace(scored, extra=users), _SEGMENTS))
    footers = _seconds(lambda: open_rows(folder / "rows", "train", contract(_TABLE_ROWS), (), ()))
    drawn = _seconds(lambda: order.streams(0, _RANKS, 1024, ()))
    requests = _seconds(lambda: [store.get("key") for _ in range(_REQUESTS)])
    return {
        "metrics_us_per_row": 1e6 * metrics / rows,
        "user_metrics_us_per_row": 1e6 * of_users / rows,
        "footer_us_per_file": 1e6 * footers / _FILES,
        "order_us_per_group": 1e6 * drawn / len(opened.groups),
        "store_us_per_request": 1e6 * requests / _REQUESTS,
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
