"""A run by segment: everybody learns by their rung, the tower and what a segment may not change stay as they were."""

import pytest
import torch

from recsys.composition.conditional import SegmentGatedComposition
from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.sharding.whole_state import whole_state
from recsys.towers.tower_spec import TowerSpec
from recsys.training.cache import TowerCache
from recsys.training.modes import BY_SEGMENT, END_TO_END, FROZEN_TOWER, apply_training_mode
from recsys.training.stages import TrainingStage
from tests.method.test_by_segment_equals_a_plain_model import with_rungs
from tests.small_model import ROWS, TOWER_WIDTH, batch_of, small_ranker, small_schema
from tests.training.saved_runs import KilledError, die_at_checkpoint, differing, everything, resume_run
from tests.training.small_run import SmallRun, gated_ranker, small_run, staged_run

MIXED = ("frozen", "adapter", "all")
STAGES = [TrainingStage(FROZEN_TOWER, steps=3), TrainingStage(BY_SEGMENT)]


def mixed_ranker(rungs: tuple[str, ...] = MIXED) -> torch.nn.Module:
    return with_rungs(gated_ranker(), rungs, spread=False)


def mixed_run(context):
    run = staged_run(context, STAGES, ranker=mixed_ranker())
    torch.manual_seed(7)
    return run


def batch_now(run: SmallRun) -> Batch:
    """The batch that the run takes its present step with."""
    return run.stream.batches[(run.stream.consumed - 1) % len(run.stream.batches)]


def is_frozen(run: SmallRun) -> torch.Tensor:
    return batch_now(run).segment == MIXED.index("frozen")


def test_where_all_segments_learn_all_it_is_end_to_end(context) -> None:
    mixed = small_run(context, BY_SEGMENT, ranker=mixed_ranker(("all", "all", "all"))).train(12)
    fine_tuned = small_run(context, END_TO_END).train(12)

    assert [each.loss for each in mixed] == pytest.approx([each.loss for each in fine_tuned], rel=1e-5)


@pytest.mark.parametrize(("rung", "mode"), [("tables", "tower_tables"), ("dense", "tower_dense")])
def test_where_all_segments_learn_a_half_it_is_the_mode_of_that_half(context, rung: str, mode: str) -> None:
    mixed = small_run(context, BY_SEGMENT, ranker=mixed_ranker((rung,) * 3)).train(9)
    uniform = small_run(context, mode).train(9)

    assert [each.loss for each in mixed] == pytest.approx([each.loss for each in uniform], rel=1e-5)


def test_the_tower_is_proven_unchanged_while_adapters_and_copies_learn(context) -> None:
    run = staged_run(context, [TrainingStage(BY_SEGMENT)], ranker=mixed_ranker())
    before = whole_state(run.ranker)
    frozen_rows = torch.tensor([row.segment == 0 for row in ROWS])
    tower = run.ranker.module.embedding_tower
    vectors = tower(batch_of(ROWS))
    given: list[bool] = []

    def compare(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        given.append(torch.equal(arguments[0][is_frozen(run)], tower(batch_now(run))[is_frozen(run)]))

    run.ranker.module.composition.projection.register_forward_pre_hook(compare)

    reports = run.train(12)

    assert given == [True] * 12

    assert run.stages.record(12)["embedding_tower"]["is_unchanged"]
    after = whole_state(run.ranker)
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"interaction_network", "composition", "head", "tower_adapters", "tower_copies"}
    assert torch.equal(tower(batch_of(ROWS))[frozen_rows], vectors[frozen_rows])
    norms = reports[-1].gradient_norms
    assert norms["embedding_tower"] == 0
    assert norms["adapter/light"] == pytest.approx(norms["tower_adapters"])
    assert norms["copy/all"] == pytest.approx(norms["tower_copies"])
    assert min(norms["adapter/light"], norms["copy/all"]) > 0
    # Segments share no row with the unseen ids, whose difference from the tower is zero for good.
    tables = {name: each for name, each in after.items() if name.startswith("tower_copies.") and ".ebc." in name}
    assert tables
    assert not any(each[0].any() for each in tables.values())


def test_it_learns_the_same_where_the_towers_vectors_are_kept(context, monkeypatch) -> None:
    # Some processors round a product of fewer rows otherwise, and a cache that sees it leaves the tower to itself.
    monkeypatch.setattr(TowerCache, "_check", lambda *_, **__: None)
    # A tower that reads some of the batch's features: a copy's look-up must not be told of those alone.
    imported = TowerSpec.imported(small_schema(), width=TOWER_WIDTH)

    def run() -> SmallRun:
        ranker = small_ranker(lambda p: SegmentGatedComposition(p, 3, [4]), spec=imported)
        ranker = with_rungs(ranker, ("tables", "adapter", "frozen"), spread=False)
        return small_run(context, BY_SEGMENT, ranker=ranker)

    alone, cached = run(), run()
    cache = TowerCache(cached.ranker, 1, context)

    losses = [[report.loss for report in each.train(9)] for each in (alone, cached)]

    assert cache.record()["is_in_use"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_what_an_absent_segment_has_of_its_own_does_not_move(context) -> None:
    run = small_run(context, BY_SEGMENT, ranker=mixed_ranker(("frozen", "adapter", "adapter")))
    run.stream.batches = [batch_of([row for row in ROWS if row.segment != 1])]
    before = whole_state(run.ranker)

    run.train(5)  # with weight decay and momentum

    after = whole_state(run.ranker)
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("tower_adapters.1."))
    assert not torch.equal(after["tower_adapters.2.up.weight"], before["tower_adapters.2.up.weight"])


def test_before_their_stage_adapters_and_copies_are_proven_unchanged_as_well(context) -> None:
    run = mixed_run(context)

    reports = run.train(6)

    proofs = run.stages.record(6)
    assert {path: (each["mode"], each["to_step"]) for path, each in proofs.items()} == {
        "embedding_tower": (BY_SEGMENT, 6),
        "tower_adapters": (FROZEN_TOWER, 3),
        "tower_copies": (FROZEN_TOWER, 3),
    }
    assert [each.gradient_norms["tower_copies"] > 0 for each in reports] == [False] * 3 + [True] * 3
    assert run.stages.state.thawed_at["tower_copies_tables"] == 3


@pytest.mark.parametrize("break_at", [2, 3, 5])
def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(context, tmp_path, break_at: int) -> None:
    unbroken, broken = mixed_run(context), mixed_run(context)
    unbroken.train(8)
    die_at_checkpoint(broken, tmp_path)
    with pytest.raises(KilledError):
        broken.train(8, checkpoint_every=break_at)

    resumed = mixed_run(context)
    resume_run(resumed, tmp_path)
    resumed.train(8)

    assert differing(everything(resumed), everything(unbroken)) == []


def test_modes_and_rankers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="no segment of this ranker learns anything"):
        apply_training_mode(gated_ranker(), BY_SEGMENT)
    with pytest.raises(UsageError, match="tower_adapters and tower_copies beside a tower that stays frozen"):
        apply_training_mode(mixed_ranker(), END_TO_END)
