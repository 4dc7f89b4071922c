"""How close the bounded shuffle comes to a perfect one, by the size of its buffer.

    python tests/benchmarks/shuffle_quality.py [--days 30] [--rows-per-day 200000] [--row-group 100000] [--json]

The order of a stream is arithmetic (`EpochOrder`), so no file is written: the rows of some days lie in row groups in
the order of time, and the share of positive labels drifts over the days from 0.20 to 0.30 with a weekly swing of 0.02.
Figures are means over `--epochs` epochs, beside those of a uniform permutation of all rows:

- `with file`: |correlation| of a row's place in the files with its place in the epoch.
- `neighbours`: correlation of the file places of rows that follow each other in the epoch; 0 where they are strangers.
- `label rate variance`: variance of the batches' label rate over that of the uniform permutation's batches.
- `days`: different days in a batch.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.streaming.row_groups import RowGroup
from recsys.streaming.shuffle import EpochOrder

Rows = npt.NDArray[np.int64]


def row_groups(options: argparse.Namespace) -> tuple[RowGroup, ...]:
    """One file a day; its last row group may be short."""
    sizes = [
        min(options.row_group, options.rows_per_day - first)
        for first in range(0, options.rows_per_day, options.row_group)
    ]
    return tuple(
        RowGroup(Path(), f"{day}.parquet", index, rows)
        for day in range(options.days)
        for index, rows in enumerate(sizes)
    )


def rows_of_epoch(order: EpochOrder, epoch: int, batch_size: int) -> Rows:
    """The place in the files of every row, in the order in which a single process reads them."""
    sizes = [group.rows for group in order.groups]
    first = dict(zip(order.groups, np.cumsum([0, *sizes[:-1]]), strict=True))
    (stream,) = order.streams(epoch, 1, batch_size, [])
    parts = []
    for part in stream:
        pool = part.pool
        joined = np.concatenate([first[one.group] + np.arange(one.start, one.stop) for one in pool.slices])
        places = pool.order()
        parts.append(joined if places is None else joined[places])
    return np.concatenate(parts)


def quality(epochs: Iterator[Rows], labels: npt.NDArray[np.int8], options: argparse.Namespace) -> dict[str, float]:
    """The mean figures of some epochs; the label rate's variance as it is."""
    figures = []
    for rows in epochs:
        whole = len(rows) // options.batch_size * options.batch_size
        batches = rows[:whole].reshape(-1, options.batch_size)
        days = np.sort(batches // options.rows_per_day, axis=1)
        figures.append(
            {
                "with file": abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]),
                "neighbours": np.corrcoef(rows[:-1], rows[1:])[0, 1],
                "label rate variance": labels[batches].mean(axis=1).var(),
                "days": (1 + (np.diff(days, axis=1) > 0).sum(axis=1)).mean(),
            }
        )
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}


def draw_labels(options: argparse.Namespace) -> npt.NDArray[np.int8]:
    """A label for every row, in file order."""
    days = np.arange(options.days)
    rates = np.linspace(0.20, 0.30, options.days) + 0.02 * np.sin(2 * np.pi * days / 7)
    return (
        (np.random.default_rng(1).random((options.days, options.rows_per_day)) < rates[:, None]).ravel().view(np.int8)
    )


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The figures of every order, by its name."""
    groups, labels = row_groups(options), draw_labels(options)
    epochs = range(options.epochs)

    def measured(shuffle: bool, buffer_rows: int) -> dict[str, float]:
        order = EpochOrder(groups, options.seed, shuffle, buffer_rows)
        return quality((rows_of_epoch(order, epoch, options.batch_size) for epoch in epochs), labels, options)

    uniform = (np.random.default_rng([options.seed, epoch]).permutation(len(labels)) for epoch in epochs)
    results = {"file order": measured(False, 1)}
    for buffer_rows in options.buffer_rows:
        results[f"buffer of {buffer_rows:,} rows"] = measured(True, buffer_rows)
    results["uniform permutation"] = quality(uniform, labels, options)
    perfect = results["uniform permutation"]["label rate variance"]
    return {
        name: figures | {"label rate variance": figures["label rate variance"] / perfect}
        for name, figures in results.items()
    }


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows-per-day", type=int, default=200_000)
    parser.add_argument("--row-group", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--buffer-rows", type=int, nargs="+", default=[100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000]
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    results = measure(options)
    print(f"{'':28}{'with file':>12}{'neighbours':>12}{'label rate variance':>22}{'days':>8}")
    for name, figures in results.items():
        print(
            f"{name:28}{figures['with file']:12.3f}{figures['neighbours']:12.3f}"
            f"{figures['label rate variance']:22.2f}{figures['days']:8.1f}"
        )
    if options.json:
        print(json.dumps({name: {key: round(value, 4) for key, value in row.items()} for name, row in results.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
