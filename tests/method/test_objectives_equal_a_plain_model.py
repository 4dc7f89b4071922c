"""The gradients of the ordinal and the listwise loss, and of members, equal those of a model written by hand.

Row by row and in double precision, to 1e-5 of the largest number, as in `test_gradients_equal_a_plain_model.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.ranker import LABEL_ALONE, Head, Ranker
from recsys.features.batch import Batch
from recsys.features.graded import GRADE, Graded
from recsys.training.objectives.listwise import QUERY, ListwiseObjective
from recsys.training.objectives.log_loss import log_loss_objective
from recsys.training.objectives.ordinal import OrdinalObjective
from tests.method.plain_ranker import Parameters, PlainRanker, first_order, linear, parallel_concat
from tests.small_model import JOINED_WIDTH, ROWS, SEGMENTS, batch_of, small_ranker, spread_out

MEMBERS = 3
GRADED = Graded("rating", thresholds=(1.0, 3.0, 4.0), answer=3.0, weights=(0.125, 1.0, 0.25))
GRADES = [4.0, 1.0, 3.0, 5.0, 4.5, 2.0]  # above 3 where the label of `ROWS` is 1
QUERIES = [7, 7, 2, 5, 2, 7]
WEIGHTS = [1.0, 2.0, 1.0, 1.0, 3.0, 0.5]

Outputs = list[list[Tensor]]  # of a row: member by member, output by output


def ranker_of(members: int, outputs: Sequence[str] = LABEL_ALONE, answer: int = 0) -> Ranker:
    ranker = small_ranker(lambda p: ParallelComposition(p, ConcatJoin(JOINED_WIDTH)))
    head = Head(2 * JOINED_WIDTH, [4], 0.0, ranker.head.first_order, members=members, outputs=outputs, answer=answer)
    torch.manual_seed(1)
    spread_out(head)
    ranker.head = head
    return ranker


def batch() -> Batch:
    extra = {GRADE: torch.tensor(GRADES), QUERY: torch.tensor(QUERIES)}
    return replace(batch_of(ROWS), weight=torch.tensor(WEIGHTS), extra=extra)


def plain_outputs(p: Parameters, members: int) -> list[Outputs]:
    model, rows = PlainRanker(parallel_concat), []
    for row in ROWS:
        joined, of_ids = parallel_concat(model, p, row), first_order(p, row)
        if members == 1:
            hidden = torch.clamp(linear(p, "head.hidden.layers.0", joined), min=0)
            rows.append([[each + of_ids for each in linear(p, "head.output", hidden)]])
            continue
        of_members = []
        for number in range(members):
            own = f"head.members.{number}"
            scaled = p["head.hidden.layers.0.weight"] @ (p[f"{own}.input_scales.0"] * joined)
            moved = p[f"{own}.output_scales.0"] * scaled + p["head.hidden.layers.0.bias"] + p[f"{own}.shifts.0"]
            hidden = torch.clamp(moved, min=0)
            of_members.append([each + of_ids for each in linear(p, f"{own}.output", hidden)])
        rows.append(of_members)
    return rows


def plain_log_loss(outputs: list[Outputs]) -> Tensor:
    total = sum(
        weight * cross_entropy(logit, row.label) / len(of_row)
        for of_row, row, weight in zip(outputs, ROWS, WEIGHTS, strict=True)
        for (logit,) in of_row
    )
    return total / sum(WEIGHTS)


def plain_ordinal(outputs: list[Outputs]) -> Tensor:
    total = sum(
        weight * of_threshold * cross_entropy(logit, grade > threshold) / len(of_row)
        for of_row, grade, weight in zip(outputs, GRADES, WEIGHTS, strict=True)
        for of_member in of_row
        for logit, threshold, of_threshold in zip(of_member, GRADED.thresholds, GRADED.weights, strict=True)
    )
    return total / sum(WEIGHTS)


def plain_listwise(outputs: list[Outputs]) -> Tensor:
    total, whole = 0.0, 0.0
    for place, row in enumerate(ROWS):
        others = [i for i in range(len(ROWS)) if QUERIES[i] == QUERIES[place] and not ROWS[i].label]
        if not row.label or not others:
            continue
        whole += WEIGHTS[place]
        for member, (own,) in enumerate(outputs[place]):
            rivals = sum(WEIGHTS[i] * torch.exp(outputs[i][member][0]) for i in others)
            share = torch.exp(own) / (torch.exp(own) + rivals)
            total = total - WEIGHTS[place] * torch.log(share) / len(outputs[place])
    return total / whole + 0.25 * plain_log_loss(outputs)


def cross_entropy(logit: Tensor, label: bool | int) -> Tensor:
    probability = 1 / (1 + torch.exp(-logit))
    return -torch.log(probability if label else 1 - probability)


OBJECTIVES = {
    "log loss": (log_loss_objective, plain_log_loss, {}),
    "ordinal": (OrdinalObjective(GRADED), plain_ordinal, {"outputs": GRADED.names, "answer": GRADED.place}),
    "listwise": (ListwiseObjective(log_loss_weight=0.25), plain_listwise, {}),
}


@pytest.mark.parametrize("members", [1, MEMBERS])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_parameter_gets_the_plain_models_gradient(name: str, members: int) -> None:
    objective, plain, outputs = OBJECTIVES[name]
    ranker = ranker_of(members, **outputs)
    loss = objective(ranker, batch())
    loss.backward()

    parameters = {n: p.detach().double().requires_grad_() for n, p in ranker.named_parameters()}
    found = plain_outputs(parameters, members)
    expected = plain(found)
    expected.backward()

    answers = torch.stack([sum(of_member[ranker.head.answer] for of_member in row) / members for row in found])
    torch.testing.assert_close(ranker(batch()).double(), answers, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for parameter, own in ranker.named_parameters():
        want = parameters[parameter].grad
        assert want is not None, parameter
        assert want.any(), f"{parameter}: a gradient of zeros would prove nothing"
        difference = (own.grad.double() - want).abs().max() / want.abs().max()
        assert difference < 1e-5, f"{parameter}: {difference:.1e}"


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, label=torch.zeros(len(b))),
        lambda b: replace(b, label=torch.ones(len(b))),
        lambda b: replace(b, weight=torch.zeros(len(b))),
        lambda b: replace(b, extra={QUERY: torch.arange(len(b))}),
    ],
    ids=["without positives", "without negatives", "without weight", "one row a query"],
)
@pytest.mark.parametrize("members", [1, MEMBERS])
def test_a_batch_without_anything_to_compare_costs_nothing_and_keeps_the_graph(
    members: int, change: Callable[[Batch], Batch]
) -> None:
    ranker = ranker_of(members)
    loss = ListwiseObjective(log_loss_weight=0.0)(ranker, change(batch()))
    loss.backward()

    assert loss.item() == 0
    gradients = {name: parameter.grad for name, parameter in ranker.named_parameters()}
    # The tables are reached all the same: no process may skip them.
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_the_segments_of_the_small_rows_are_all_there() -> None:
    assert {row.segment for row in ROWS} == set(range(len(SEGMENTS)))
