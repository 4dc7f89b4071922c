"""Every composition with every interaction network under autocast, against the same pass in single precision."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from recsys.composition.ranker import Ranker
from recsys.training.objectives.log_loss import log_loss_objective
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS, CROSSINGS, sequential_ranker
from tests.small_model import ROWS, ROWS_WITHOUT_LIGHT, Row, batch_of, cross, small_ranker

NETWORKS = {"cross": cross, **{name: make for name, (make, _) in CROSSINGS.items()}}
DESIGNS = list(product(["sequential", *COMPOSITIONS], NETWORKS))
ALL_AND_ONE_ABSENT = {"all segments": ROWS, "one segment absent": ROWS_WITHOUT_LIGHT}
# bfloat16 has 8 bits and float16 has 11: a layer's rounding is up to 0.4 % and 0.05 %, some ten layers deep.
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}
# Among six rows one number that rounding takes over a ReLU's kink takes a tenth of the gradient with it: with other
# first weights it will not. A branch, a segment or a network that is lost is lost with all of them.
SEEDS = 4


def small(composition: str, network: str, seed: int) -> Ranker:
    """The small ranker of a design."""
    make_crossing: Callable = NETWORKS[network]
    if composition == "sequential":
        return sequential_ranker(make_crossing=make_crossing, seed=seed)
    return small_ranker(COMPOSITIONS[composition][0], make_crossing=make_crossing, seed=seed)


def gradients(
    ranker: Ranker, rows: Sequence[Row], dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """Return copies of the gradients by parameter's name, as far as there are any."""
    ranker.zero_grad()
    batch = batch_of(rows).to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        loss = log_loss_objective(ranker, batch)
    loss.backward()
    return {name: p.grad.to("cpu", copy=True) for name, p in ranker.named_parameters() if p.grad is not None}


def assert_close_to_single_precision(
    composition: str, network: str, rows: Sequence[Row], dtype: torch.dtype, device: torch.device
) -> None:
    """Compare the gradients: there where they are in single precision, in its type, finite and close."""
    found = (distance(small(composition, network, seed).to(device), rows, dtype, device) for seed in range(SEEDS))
    assert any(each < TOLERANCE[dtype] for each in found)


def distance(ranker: Ranker, rows: Sequence[Row], dtype: torch.dtype, device: torch.device) -> float:
    """How far the gradient is from that of single precision, as a share of it."""
    single, lower = (gradients(ranker, rows, each, device) for each in (None, dtype))
    assert lower.keys() == single.keys()
    for name, gradient in lower.items():
        assert gradient.dtype == torch.float32, name
        assert gradient.isfinite().all(), name
    whole, rounded = (torch.cat([each[name].flatten() for name in single]) for each in (single, lower))
    return ((rounded - whole).norm() / whole.norm()).item()
