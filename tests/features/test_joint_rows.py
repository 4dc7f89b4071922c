"""Losses of rows that two processes have unequal shares of: their mean, and its gradient, are those of all rows."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from recsys.sharding.processes import ProcessContext
from recsys.towers.pretraining import in_batch_softmax_loss
from recsys.training.objectives.label_log_loss import weighted_log_loss
from recsys.training.objectives.listwise import listwise_loss
from recsys.training.objectives.ordinal import ordinal_loss
from tests.sharding.two_processes import run_in_two

WIDTH = 4
# Of seven rows the second process has two, which weigh most; or none of those that count.
SHARES = {"uneven": (slice(0, 5), slice(5, 7)), "one without positives": (slice(0, 6), slice(6, 7))}
WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 3.0, 5.0])
LABEL = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
QUERY = torch.tensor([1, 1, 2, 3, 3, 4, 5])
# The second process has a choice whose rivals are in the first, and a rival of the first's choices.
PARTED = torch.tensor([1, 9, 2, 9, 9, 9, 9])
ITEM = torch.tensor([2, 3, 2, 4, 5, 2, 1])


def outputs(rows: slice, width: int) -> Tensor:
    values = torch.randn(7, width, generator=torch.Generator().manual_seed(width))
    return values[rows].clone().requires_grad_()


def softmax(vectors: Tensor, rows: slice) -> Tensor:
    places = LABEL[rows].nonzero().squeeze(1)
    user, item = torch.nn.functional.normalize(vectors[places], dim=1).chunk(2, dim=1)
    popularity = torch.linspace(-3, -1, 6)[ITEM[rows][places]]
    return in_batch_softmax_loss(user, item, ITEM[rows][places], popularity, 1 + WEIGHT[rows][places], 0.5)


LOSSES: Mapping[str, Callable[[Tensor, slice], Tensor]] = {
    "log loss": lambda x, rows: weighted_log_loss(x[:, 0], LABEL[rows], WEIGHT[rows]),
    "ordinal": lambda x, rows: ordinal_loss(x.unsqueeze(1)[..., :2], 3 * LABEL[rows], WEIGHT[rows], (1, 2), (0.5, 1)),
    "in-batch softmax": softmax,
    "listwise": lambda x, rows: listwise_loss(x[:, 0], LABEL[rows], WEIGHT[rows], QUERY[rows]),
    "listwise of parted queries": lambda x, rows: listwise_loss(x[:, :2], LABEL[rows], WEIGHT[rows], PARTED[rows]),
}


def losses_in_two(context: ProcessContext) -> dict[str, dict[str, list]]:
    found = {}
    for share, parts in SHARES.items():
        for name, loss in LOSSES.items():
            of_rows = outputs(rows := parts[context.rank], 2 * WIDTH)
            value = loss(of_rows, rows)
            value.backward()
            assert of_rows.grad is not None
            found[f"{name}, {share}"] = {"loss": value.item(), "gradient": of_rows.grad.tolist()}
    return found


def test_the_mean_of_two_processes_losses_is_the_loss_of_all_their_rows_and_so_is_its_gradient(tmp_path):
    first, second = run_in_two(losses_in_two, tmp_path)

    for case in first:
        of_all = outputs(slice(0, 7), 2 * WIDTH)
        whole = LOSSES[case.partition(",")[0]](of_all, slice(0, 7))
        whole.backward()
        assert (first[case]["loss"] + second[case]["loss"]) / 2 == pytest.approx(whole.item(), rel=1e-5), case
        gradient = torch.tensor(first[case]["gradient"] + second[case]["gradient"]) / 2
        torch.testing.assert_close(gradient, of_all.grad, rtol=1e-5, atol=1e-7, msg=case)
