"""How long a run may be and in what steps: by the rows that it learns from, unless the configuration says so."""

import math
from dataclasses import dataclass

STEPS_PER_EPOCH = 64
"""An epoch has at least so many steps, as long as batches of `SMALLEST_BATCH` rows allow it."""

SMALLEST_BATCH = 128
MOST_EPOCHS = 4


@dataclass(frozen=True)
class Budget:
    """Batch size in rows, the most epochs, and the factor on rates that are meant for batches of another size."""

    batch_size: int
    epochs: int
    rate_factor: float


def budget_for(rows: int, largest_batch: int, rows_seen: int, rated_batch: int) -> Budget:
    """Choose a budget for so many training rows.

    A run may see its rows again until it has seen about `rows_seen`, within 1 and `MOST_EPOCHS` epochs.

    The batch is the power of two that gives an epoch `STEPS_PER_EPOCH` steps, up to the largest. Rates are meant for
    `rated_batch` rows and go with the square root of the batch, as adaptive optimizers ask for: Malladi et al., "On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms" (NeurIPS 2022), section 5.

    >>> budget_for(7_000, largest_batch=2048, rows_seen=200_000, rated_batch=2048)
    Budget(batch_size=128, epochs=4, rate_factor=0.25)
    >>> budget_for(2_000_000, largest_batch=8192, rows_seen=200_000, rated_batch=2048)
    Budget(batch_size=8192, epochs=1, rate_factor=2.0)
    """
    wanted = 2 ** round(math.log2(max(1, rows / STEPS_PER_EPOCH)))
    batch = min(largest_batch, max(SMALLEST_BATCH, wanted))
    epochs = min(MOST_EPOCHS, max(1, round(rows_seen / max(1, rows))))
    return Budget(batch, epochs, math.sqrt(batch / rated_batch))
