"""Each segment learns of the tower what its rung says, by the gradient of a model written by hand, and nothing else."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.composition.ranker import Ranker
from recsys.composition.segment_rungs import COPIED, SegmentRungs
from recsys.errors import UsageError
from recsys.training.modes import BY_SEGMENT, apply_training_mode
from tests.method import plain_ranker as plain
from tests.method.plain_by_segment import by_segment
from tests.method.test_gradients_equal_a_plain_model import (
    COMPOSITIONS,
    RELATIVE_TOLERANCE,
    gradients_of_plain_model,
    sequential_ranker,
)
from tests.small_model import ROWS, ROWS_WITHOUT_LIGHT, Row, batch_of, small_contract, small_ranker, spread_out

# The ids that stand in the rows of a segment, by table; what it has not seen is left out.
_FEATURES = {"user_id": ("user_id",), "item_id": ("item_id", "recent"), "brand": ("brand",)}
LADDERS = [
    ("frozen", "adapter", "tables"),
    ("dense", "frozen", "all"),
    ("all", "adapter", "all"),
    ("tables", "dense", "frozen"),
]
# Every way a composition calls the tower: for all rows, for some, through the crossing.
MAKERS = {
    "parallel product": COMPOSITIONS["parallel product"],
    "conditional gate and experts": COMPOSITIONS["conditional gate and experts"],
    "conditional route": COMPOSITIONS["conditional route"],
    "parallel and conditional": COMPOSITIONS["parallel and conditional"],
}


def seen_by(segments: Sequence[int], rows: Sequence[Row] = ROWS) -> dict[str, torch.Tensor]:
    """By table, the ids in the rows of some segments, ascending."""
    found = {}
    for table, names in _FEATURES.items():
        values = [getattr(row, name) for row in rows if row.segment in segments for name in names]
        ids = {each for value in values for each in (value if isinstance(value, tuple) else (value,))}
        found[table] = torch.tensor(sorted(ids), dtype=torch.int64)
    return found


def with_rungs(ranker: Ranker, of_segments: tuple[str, ...], *, spread: bool = True) -> Ranker:
    """Let the segments learn by their rungs; with `spread` from numbers of no special kind, else from the tower."""
    segments = {rung: [s for s, each in enumerate(of_segments) if each == rung] for rung in COPIED}
    seen = {rung: seen_by(numbers) for rung, numbers in segments.items() if numbers}
    rows = {rung: {table: len(ids) + 1 for table, ids in tables.items()} for rung, tables in seen.items()}
    ranker.learn_by_segment(SegmentRungs(of_segments, 2, rows), small_contract())
    for rung, copy in (ranker.tower_copies or {}).items():
        copy.start_from(ranker.embedding_tower, seen[rung])
    if spread:
        for part in (ranker.tower_adapters, ranker.tower_copies):
            if part is not None:
                frozen = {name: each.clone() for name, each in part.state_dict().items()}
                spread_out(part)
                keep_tower_where_frozen(part, frozen)
    apply_training_mode(ranker, BY_SEGMENT)
    return ranker


def keep_tower_where_frozen(part: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    """The layers of a copy whose tables alone learn are the tower's; the row of unseen ids is zero."""
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if ".embedding_bags." in name:
                parameter[0] = 0
            elif name.startswith("tables."):
                parameter.copy_(before[name])


def rows_of(ranker: Ranker) -> dict[str, dict[str, torch.Tensor]]:
    copies = ranker.tower_copies or {}
    return {
        rung: {table: copies[rung].rows_of(table) for table in _FEATURES} for rung in copies if "tables" in COPIED[rung]
    }


def assert_gradients(ranker: Ranker, compose: Callable, rows: Sequence[Row], rungs: tuple[str, ...]) -> None:
    batch = batch_of(rows)
    logits = ranker(batch)
    binary_cross_entropy_with_logits(logits, batch.label).backward()
    model = plain.PlainRanker(compose, tower=by_segment(plain.two_tower, rungs, rows_of(ranker)))

    expected_logits, expected = gradients_of_plain_model(model, ranker, rows)

    torch.testing.assert_close(logits.double(), expected_logits, rtol=RELATIVE_TOLERANCE, atol=1e-6)
    for name, parameter in ranker.named_parameters():
        want, found = expected[name], parameter.grad
        if want is None or not want.any():
            assert found is None or (".ebc." in name and not found.any()), name
            continue
        if not parameter.requires_grad:
            assert name.startswith(("embedding_tower.", "tower_copies.tables.")), name
            continue
        assert found is not None, f"{name} got no gradient"
        difference = (found.double() - want).abs().max() / want.abs().max()
        assert difference < RELATIVE_TOLERANCE, f"{name}: {difference:.1e}"
    assert all(each.grad is None for each in ranker.embedding_tower.parameters())


@pytest.mark.parametrize("rungs", LADDERS, ids=" ".join)
@pytest.mark.parametrize(("make", "compose"), MAKERS.values(), ids=MAKERS.keys())
def test_every_parameter_gets_the_plain_models_gradient(
    make: Callable, compose: Callable, rungs: tuple[str, ...]
) -> None:
    if compose is MAKERS["conditional route"][1]:  # segment 1 does not pass the tower
        rungs = (rungs[0], "frozen", rungs[2])
    assert_gradients(with_rungs(small_ranker(make), rungs), compose, ROWS, rungs)


@pytest.mark.parametrize("rungs", LADDERS, ids=" ".join)
def test_without_a_row_of_a_segment_too(rungs: tuple[str, ...]) -> None:
    make, compose = MAKERS["conditional gate and experts"]
    assert_gradients(with_rungs(small_ranker(make), rungs), compose, ROWS_WITHOUT_LIGHT, rungs)


def test_a_segment_that_does_not_pass_the_tower_may_not_learn_of_it() -> None:
    with pytest.raises(UsageError, match="Segment 1 has the rung `adapter`, and the composition's route"):
        with_rungs(small_ranker(MAKERS["conditional route"][0]), ("frozen", "adapter", "frozen"))


@pytest.mark.parametrize("rungs", LADDERS, ids=" ".join)
def test_through_the_crossing_as_well(rungs: tuple[str, ...]) -> None:
    assert_gradients(with_rungs(sequential_ranker(), rungs), plain.sequential, ROWS, rungs)


@pytest.mark.parametrize("rungs", LADDERS, ids=" ".join)
def test_before_the_first_step_every_row_has_the_towers_vector(rungs: tuple[str, ...]) -> None:
    make = COMPOSITIONS["parallel concat"][0]
    plain_logits, mixed = small_ranker(make)(batch_of(ROWS)), with_rungs(small_ranker(make), rungs, spread=False)

    # A copy's layers pass its own rows alone, and a product of fewer rows may be rounded in another order.
    torch.testing.assert_close(mixed(batch_of(ROWS)), plain_logits, rtol=1e-6, atol=1e-6)


def test_rows_of_a_frozen_segment_have_the_towers_vector_to_the_bit_whatever_others_learned() -> None:
    make = COMPOSITIONS["parallel concat"][0]
    frozen, mixed = small_ranker(make), with_rungs(small_ranker(make), ("frozen", "adapter", "all"))
    is_frozen = torch.tensor([row.segment == 0 for row in ROWS])

    alone, beside = frozen(batch_of(ROWS)), mixed(batch_of(ROWS))

    assert torch.equal(beside[is_frozen], alone[is_frozen])
    assert not torch.isclose(beside[~is_frozen], alone[~is_frozen]).any()


def test_an_id_that_the_segments_have_not_seen_has_the_towers_vector() -> None:
    ranker = with_rungs(small_ranker(COMPOSITIONS["parallel concat"][0]), ("frozen", "frozen", "tables"))
    # Every id of this row is known to the tower, and none of them stands in a row of the heavy segment.
    row = Row(0.4, 4, 5, 0.2, 2, (5,), 2, 1)
    assert not set(seen_by([2])["user_id"].tolist()) & {4}
    assert not {5} & set(seen_by([2])["item_id"].tolist())

    mixed, base = ranker(batch_of([row])), small_ranker(COMPOSITIONS["parallel concat"][0])(batch_of([row]))

    assert torch.equal(mixed, base)
