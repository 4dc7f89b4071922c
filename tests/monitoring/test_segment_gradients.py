"""The tower's gradient by segment equals the slow way, one backward pass of the unfused model per segment."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from recsys.composition.conditional import SegmentGatedComposition, SegmentRoutedComposition
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.errors import TrainingError
from recsys.monitoring.segment_gradients import SegmentGradients, segment_view
from recsys.sharding.gate import TableGate
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.method.plain_ranker import ROUTES
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, ROWS_WITHOUT_LIGHT, SEGMENTS, batch_of, small_ranker
from tests.training.small_run import Batches, gated_ranker, small_run

S = len(SEGMENTS)
COMPOSITIONS = {
    "parallel": lambda p: ParallelComposition(p, ConcatJoin(5)),
    "experts": lambda p: SegmentGatedComposition(p, S, [4]),
    "routed": lambda p: SegmentRoutedComposition(p, ROUTES, None),  # segment 1 does not pass the tower
}
SHARDINGS = ["table_wise", "row_wise", "column_wise", "data_parallel"]
TABLES = dict.fromkeys(("embedding_tower", "interaction_network", "head"), TableOptimizer("adagrad", 0.05))


def by_hand(plain, batch):
    """Each segment's gradient of the tower, flat, from a loss of its rows alone."""
    gradients = []
    for segment in range(S):
        plain.zero_grad()
        losses = F.binary_cross_entropy_with_logits(plain(batch), batch.label, weight=batch.weight, reduction="none")
        (losses[batch.segment == segment].sum() / batch.weight.sum()).backward()
        parameters = list(plain.embedding_tower.parameters())
        gradients.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]))
    return [gradient.double() for gradient in gradients]


def shares_and_cosines(gradients):
    norms = [gradient.norm().item() for gradient in gradients]
    rests = [sum(gradients[:s] + gradients[s + 1 :]) for s in range(S)]
    cosines = {
        s: (gradients[s] @ rests[s]).item() / (norms[s] * rests[s].norm().item())
        for s in range(S)
        if norms[s] > 0 and rests[s].norm() > 0
    }
    return {s: norm / sum(norms) for s, norm in enumerate(norms)}, cosines


def viewed(context, model, batch, sharding="table_wise"):
    """The same by our own way."""
    wrapped = wrap_ranker(model, TABLES, context, dict.fromkeys(TABLES, sharding))
    gate = TableGate(wrapped)
    by_segment = SegmentGradients(wrapped, "embedding_tower", gate, S, context)
    by_segment.arm()
    log_loss_objective(wrapped.module, batch).backward(retain_graph=True)
    return segment_view(by_segment.read(), S)


def weighted(rows):
    batch = batch_of(rows)
    batch.weight = torch.arange(1.0, len(rows) + 1)
    return batch


@pytest.mark.parametrize("rows", [ROWS, ROWS_WITHOUT_LIGHT], ids=["all segments", "one absent"])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("make", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_shares_and_cosines_equal_one_backward_pass_per_segment(context, make, sharding, rows):
    plain = small_ranker(make)
    shares, cosines = shares_and_cosines(by_hand(copy.deepcopy(plain), weighted(rows)))

    view = viewed(context, plain, weighted(rows), sharding)

    assert view.shares == pytest.approx(shares, rel=1e-5)
    assert sum(view.shares.values()) == pytest.approx(1)
    assert view.cosines == pytest.approx(cosines, rel=1e-5, abs=1e-5)


def views_in_two(context):
    found = {}
    for name, make in COMPOSITIONS.items():
        for sharding in SHARDINGS:
            view = viewed(context, small_ranker(make), batch_of((ROWS[:3], ROWS[3:])[context.rank]), sharding)
            found[f"{name} {sharding}"] = [list(view.shares.values()), list(view.cosines.values())]
    return found


def test_two_processes_see_the_segments_of_the_joined_batch(tmp_path):
    first, second = run_in_two(views_in_two, tmp_path)

    assert first == second
    for kind, (shares, cosines) in first.items():
        plain = small_ranker(COMPOSITIONS[kind.split()[0]])
        expected = shares_and_cosines(by_hand(plain, batch_of(ROWS)))  # segment 1 is in the second half alone
        assert shares == pytest.approx(list(expected[0].values()), rel=1e-5), kind
        assert cosines == pytest.approx(list(expected[1].values()), abs=1e-5), kind


def noisy(ranker, batch):
    """An objective that draws a random number, as dropout does."""
    return log_loss_objective(ranker, batch) * (1 + 0.1 * torch.rand(()))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_looking_moves_nothing_and_draws_no_random_number(context, precision):
    unseen, seen = small_run(context), small_run(context)
    for run, every in ((unseen, 0), (seen, 1)):
        torch.manual_seed(1)
        run.train(4, noisy, segment_view_every=every, precision=precision)

    expected = {**whole_state(unseen.ranker), **whole(unseen.optimizers.parts())}
    assert all(
        torch.equal(t, expected[n]) for n, t in {**whole_state(seen.ranker), **whole(seen.optimizers.parts())}.items()
    )
    assert [report.gradient_norms for report in seen.reports] == [report.gradient_norms for report in unseen.reports]
    assert [set(report.segment_shares) for report in seen.reports] == [set(SEGMENTS)] * 4
    assert [report.segment_shares for report in unseen.reports] == [{}] * 4


def test_the_loop_looks_when_due_and_names_the_segments(context):
    run = small_run(context, rate=1e-9)  # so that the weights of the second step are those of the first
    run.stream = Batches([batch_of(ROWS)])
    shares, cosines = shares_and_cosines(by_hand(gated_ranker(), batch_of(ROWS)))

    reports = run.train(5, report_every=100, norms_every=100, segment_view_every=2)

    assert [(report.step, bool(report.segment_shares)) for report in reports] == [(2, True), (4, True), (5, False)]
    report = reports[0]
    assert report.segment_shares == pytest.approx({SEGMENTS[s]: share for s, share in shares.items()}, rel=1e-5)
    assert report.segment_cosines == pytest.approx({SEGMENTS[s]: cosine for s, cosine in cosines.items()}, abs=1e-5)


def test_a_frozen_tower_has_nothing_to_share(context):
    report = small_run(context, "frozen_tower").train(1, segment_view_every=1)[0]

    assert report.segment_shares == report.segment_cosines == dict.fromkeys(SEGMENTS, 0.0)


def test_a_gradient_that_is_not_finite_is_no_view(context):
    report = small_run(context).train(1, lambda r, b: log_loss_objective(r, b) * math.inf, segment_view_every=1)[0]

    assert report.segment_shares == report.segment_cosines == {}


def test_a_segment_alone_in_the_batch_has_the_whole_share_and_no_cosine(context):
    rows = [row for row in ROWS if row.segment == 0]

    view = viewed(context, small_ranker(COMPOSITIONS["parallel"]), batch_of(rows))

    assert view.shares == {0: 1.0, 1: 0.0, 2: 0.0}
    assert view.cosines == {}


def test_a_loss_that_bypasses_the_tower_is_told_and_not_shown_as_zero(context):
    run = small_run(context)
    by_segment = SegmentGradients(run.ranker, "embedding_tower", TableGate(run.ranker), S, context)
    by_segment.arm()
    run.ranker.module.embedding_tower(batch_of(ROWS))

    with pytest.raises(TrainingError, match="no gradient came through its output"):
        by_segment.read()


@pytest.mark.parametrize("mode", ["tower_dense", "tower_tables"])
def test_of_a_tower_that_learns_by_half_that_half_alone_is_seen(context, mode):
    run = small_run(context, mode)
    run.stream = Batches([batch_of(ROWS)])
    plain = gated_ranker()
    for name, parameter in plain.embedding_tower.named_parameters():
        parameter.requires_grad_(("embedding_bags" in name) == (mode == "tower_tables"))
    shares, cosines = shares_and_cosines(by_hand(plain, batch_of(ROWS)))

    report = run.train(1, segment_view_every=1)[0]

    assert report.segment_shares == pytest.approx({SEGMENTS[s]: share for s, share in shares.items()}, rel=1e-5)
    assert report.segment_cosines == pytest.approx({SEGMENTS[s]: cosine for s, cosine in cosines.items()}, abs=1e-5)
    assert (report.gradient_norms["embedding_tower/tables"] > 0) == (mode == "tower_tables")
    assert (report.gradient_norms["embedding_tower/dense"] > 0) == (mode == "tower_dense")
