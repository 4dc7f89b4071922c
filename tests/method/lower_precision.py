"""Every composition with every interaction network under autocast, against the same pass in single precision."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from recsys.composition.ranker import Ranker
from recsys.training.loss import click_objective
from tests.method.test_gradients_equal_a_plain_model import COMPOSITIONS, CROSSINGS, sequential_ranker
from tests.small_model import ROWS, ROWS_WITHOUT_LIGHT, Row, batch_of, cross, small_ranker

NETWORKS = {"cross": cross, **{name: make for name, (make, _) in CROSSINGS.items()}}
DESIGNS = list(product(["sequential", *COMPOSITIONS], NETWORKS))
ALL_AND_ONE_ABSENT = {"all segments": ROWS, "one segment absent": ROWS_WITHOUT_LIGHT}
# Of the whole gradient. Rounding alone is below 1 %; but among six rows a number that crosses a ReLU's kink takes up
# to 11 % with it. A branch, a segment or a network that is lost takes tens of per cent.
RELATIVE_TOLERANCE = 0.15


def small(composition: str, network: str) -> Ranker:
    """The small ranker of a design."""
    make_crossing: Callable = NETWORKS[network]
    if composition == "sequential":
        return sequential_ranker(make_crossing=make_crossing)
    return small_ranker(COMPOSITIONS[composition][0], make_crossing=make_crossing)


def gradients(
    ranker: Ranker, rows: Sequence[Row], dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """Return the loss, and the gradients by parameter's name as far as there are any."""
    ranker.zero_grad()
    batch = batch_of(rows).to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        loss = click_objective(ranker, batch)
    loss.backward()
    found = {name: parameter.grad.cpu() for name, parameter in ranker.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach().cpu(), **found}


def assert_close_to_single_precision(
    composition: str, network: str, rows: Sequence[Row], dtype: torch.dtype, device: torch.device
) -> None:
    """Compare loss and gradients: there where they are in single precision, in its type, finite and close."""
    ranker = small(composition, network).to(device)
    single = {name: tensor.clone() for name, tensor in gradients(ranker, rows, None, device).items()}
    lower = gradients(ranker, rows, dtype, device)
    assert lower.keys() == single.keys()
    for name, tensor in lower.items():
        assert tensor.dtype == torch.float32, name
        assert tensor.isfinite().all(), name
    assert abs(lower.pop("loss") - single.pop("loss")) < 0.02
    whole, rounded = (torch.cat([found[name].flatten() for name in single]) for found in (single, lower))
    assert (rounded - whole).norm() < RELATIVE_TOLERANCE * whole.norm()
