"""Dropout of ids and of fields: what a step, an evaluation and a frozen tower see, and the same bits after a break."""

import pytest
import torch
from torch import nn

from recsys.composition.own_draws import with_own_draws
from recsys.composition.ranker import Ranker
from recsys.config.compose import compose_config
from recsys.features.id_dropout import with_unknown_ids
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.interactions.fields import InteractionFields
from recsys.sharding.processes import draw_apart
from recsys.sharding.whole_state import whole_state
from recsys.training.modes import END_TO_END, FROZEN_TOWER
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.sharding.two_processes import run_in_two
from tests.small_model import FIELD_WIDTH, ROWS, batch_of, small_contract
from tests.training.saved_runs import KilledError, die_at_checkpoint, resume_run
from tests.training.small_run import SmallRun, gated_ranker, small_run


def dropping_run(context, mode: str = END_TO_END, ids: float = 0.5, fields: float = 0.5) -> SmallRun:
    ranker = gated_ranker()
    ranker.id_dropout, ranker.interaction_network.fields.embedding_dropout.p = ids, fields
    run = small_run(context, mode, ranker=ranker)
    torch.manual_seed(3)
    return run


def assert_same_weights(one: SmallRun, other: SmallRun) -> None:
    for name, tensor in whole_state(one.ranker).items():
        assert torch.equal(tensor, whole_state(other.ranker)[name]), name


def test_ids_become_the_unknown_one_and_nothing_else_changes():
    batch = batch_of(ROWS * 500)
    before = batch.sparse.values().clone()
    torch.manual_seed(0)
    seen = with_unknown_ids(batch, 0.25)

    values = seen.sparse.values()
    known = before != UNKNOWN_ROW
    assert torch.equal(batch.sparse.values(), before)
    assert ((values == before) | (values == UNKNOWN_ROW)).all()
    # Of some 10,000 known ids a quarter, within 4 standard deviations.
    assert (values[known] == UNKNOWN_ROW).double().mean().item() == pytest.approx(0.25, abs=0.018)
    assert torch.equal(seen.sparse.lengths(), batch.sparse.lengths())
    assert seen.sparse.keys() == batch.sparse.keys()
    assert seen.dense is batch.dense
    assert seen.label is batch.label
    assert torch.equal(seen.sparse_and_segment["user segment"].values(), batch.segment)


def test_the_unknown_row_learns_where_no_row_looks_it_up():
    rows = [row for row in ROWS if row.user_id and row.item_id]
    table = "network_user_id"
    for share, learns in ((0.0, False), (0.9, True)):
        ranker = gated_ranker()
        ranker.id_dropout = share
        torch.manual_seed(0)
        log_loss_objective(ranker, batch_of(rows)).backward()
        gradient = ranker.interaction_network.fields.ebc.embedding_bags[table].weight.grad
        assert gradient[UNKNOWN_ROW].any().item() is learns


def test_whole_fields_are_dropped_and_the_others_scaled_up():
    fields = InteractionFields(small_contract(), FIELD_WIDTH, has_tower_field=False)
    batch = batch_of(ROWS * 200)
    looked_up = fields.look_up(batch)
    plain = fields.eval()(looked_up, batch.dense, None)
    fields.embedding_dropout.p = 0.75
    assert torch.equal(fields(looked_up, batch.dense, None), plain)

    torch.manual_seed(0)
    found = fields.train()(looked_up, batch.dense, None)
    of_ids, of_numbers = slice(0, 4), slice(4, 6)
    assert torch.equal(found[:, of_numbers], plain[:, of_numbers])
    is_dropped = (found[:, of_ids] == 0).all(dim=2)
    assert torch.allclose(found[:, of_ids][~is_dropped], 4 * plain[:, of_ids][~is_dropped])
    # 1,200 rows of four fields, within 4 standard deviations, but for those that were zero before.
    had_numbers = (plain[:, of_ids] != 0).any(dim=2)
    assert is_dropped[had_numbers].double().mean().item() == pytest.approx(0.75, abs=0.03)


def test_evaluation_sees_every_id_and_field(context):
    run, plain = dropping_run(context), small_run(context)
    batch = batch_of(ROWS)
    before = torch.get_rng_state()
    with torch.no_grad():
        found, expected = run.ranker.module.eval()(batch), plain.ranker.module.eval()(batch)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_tower_sees_every_id_while_the_network_does_not(context):
    run = dropping_run(context, FROZEN_TOWER, ids=0.9)
    module, seen = run.ranker.module, {}
    module.train()
    for part in ("embedding_tower", "interaction_network"):
        inner = module.get_submodule(part)

        def noting(batch, part=part, look_up=inner.look_up):
            seen[part] = batch.sparse.values()
            return look_up(batch)

        inner.look_up = noting
    batch = batch_of(ROWS)
    module(batch)
    assert seen["embedding_tower"] is batch.sparse.values()
    assert (seen["interaction_network"] == UNKNOWN_ROW).sum() > (batch.sparse.values() == UNKNOWN_ROW).sum()


def test_both_off_draw_nothing_and_change_no_bit(context):
    plain, off = small_run(context), dropping_run(context, ids=0.0, fields=0.0)
    before = torch.get_rng_state()
    off.train(3)
    assert torch.equal(torch.get_rng_state(), before)
    plain.train(3)
    assert_same_weights(plain, off)
    training = compose_config([]).training
    assert (training.id_dropout, training.embedding_dropout, training.average_decay) == (0.0, 0.0, None)


def test_a_resumed_run_drops_what_an_unbroken_one_drops(context, tmp_path):
    unbroken, broken = dropping_run(context), dropping_run(context)
    unbroken.train(5)
    torch.manual_seed(3)
    die_at_checkpoint(broken, tmp_path)
    with pytest.raises(KilledError):
        broken.train(5, checkpoint_every=2)
    resumed = dropping_run(context)
    torch.manual_seed(99)
    resume_run(resumed, tmp_path)
    resumed.train(5)
    assert_same_weights(unbroken, resumed)


def drop_in_each(context):
    batch = batch_of(ROWS * 20)
    torch.manual_seed(5)
    together = with_unknown_ids(batch, 0.5).sparse.values().tolist()
    torch.manual_seed(5)
    draw_apart(context, seed=5)
    return [together, with_unknown_ids(batch, 0.5).sparse.values().tolist()]


def test_two_processes_drop_other_ids_and_the_first_those_of_a_run_of_one(tmp_path):
    (together, first), (other, second) = run_in_two(drop_in_each, tmp_path)
    assert together == other == first
    assert first != second


def masks_of(context, mode: str, steps: int = 3) -> list[torch.Tensor]:
    """What the network's dropout keeps in each step of a run whose tower drops too, where it learns."""
    made = gated_ranker()
    tower = made.embedding_tower
    tower.noise = nn.Dropout(0.5)
    tower.register_forward_hook(lambda module, _, vectors: module.noise(vectors))
    ranker = Ranker(tower, made.interaction_network, made.composition, made.head)
    ranker.interaction_network.fields.embedding_dropout.p = 0.5
    run, kept = small_run(context, mode, ranker=ranker), []
    run.ranker.module.interaction_network.fields.embedding_dropout.register_forward_hook(
        lambda _, given, found: kept.append((found != 0) | (given[0] == 0))
    )
    torch.manual_seed(3)
    run.ranker.train()
    for _ in range(steps):
        log_loss_objective(run.ranker, batch_of(ROWS)).backward()
    return kept


def test_arms_of_one_seed_drop_alike_whether_or_not_their_tower_drops_too(context):
    frozen, learning = masks_of(context, FROZEN_TOWER), masks_of(context, END_TO_END)
    assert len(frozen) == 3
    assert not torch.equal(frozen[0], frozen[1])
    for one, other in zip(frozen, learning, strict=True):
        assert torch.equal(one, other)


def test_what_a_tower_draws_is_its_own_and_differs_from_call_to_call():
    batch, drawn = batch_of(ROWS), []
    torch.manual_seed(0)
    tower = with_own_draws(lambda _, rows=None: torch.rand(4))
    for _ in range(2):
        drawn.append((tower(batch), torch.rand(4)))
    torch.manual_seed(0)
    silent = with_own_draws(lambda _, rows=None: torch.zeros(4))
    assert [torch.equal((silent(batch), torch.rand(4))[1], after) for _, after in drawn] == [True, True]
    (first, after), (second, _) = drawn
    assert not torch.equal(first, second)
    assert not torch.equal(first, after)
