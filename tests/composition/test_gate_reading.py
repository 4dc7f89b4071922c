"""The gates that are logged are those that the rows pass."""

import pytest
import torch

from recsys.composition.gate_reading import GateReading
from recsys.composition.gate_unit import GateUnit
from tests.composition.test_compositions import COMPOSITIONS, ranker_with
from tests.small_model import JOINED_WIDTH, ROWS, ROWS_WITHOUT_LIGHT, batch_of

TOWER, NETWORK = "embedding_tower", "interaction_network"
GATED = {
    "conditional gate": {TOWER, NETWORK},
    "conditional gate and experts": {TOWER, NETWORK},
    "parallel and conditional": {TOWER, NETWORK},
    "epnet": {TOWER, NETWORK},
    "nested sequential": {"joined"},
    "ppnet": {f"{TOWER}_of_layer_1", f"{NETWORK}_of_layer_1", "joined_of_layer_2"},
    "pepnet": {TOWER, NETWORK, f"{TOWER}_of_layer_1", f"{NETWORK}_of_layer_1"},
}


def means_of(ranker: torch.nn.Module, *batches) -> dict[str, dict[int, float]]:
    with GateReading(ranker.composition, 3) as reading, torch.no_grad():
        for rows in batches:
            ranker(batch_of(rows))
    return reading.means(world_size=1)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_gate_is_read_for_every_segment_and_where_there_is_none_nothing_is(name: str) -> None:
    means = means_of(ranker_with(name), ROWS)

    assert set(means) == GATED.get(name, set())
    assert all(set(by_segment) == {0, 1, 2} for by_segment in means.values())


@pytest.mark.parametrize("name", ["conditional gate", "conditional gate and experts"])
def test_the_gates_of_a_segment_are_the_softmax_of_its_logits(name: str) -> None:
    ranker = ranker_with(name)
    own = [p for key, p in ranker.composition.segments.named_parameters() if key.endswith("logits")]

    means = means_of(ranker, ROWS[:2], ROWS[2:])

    for segment, logits in enumerate(own):
        tower, network = logits.softmax(dim=0).tolist()
        assert means[TOWER][segment] == pytest.approx(tower)
        assert means[NETWORK][segment] == pytest.approx(network)


def test_a_segment_without_rows_has_no_mean() -> None:
    assert set(means_of(ranker_with("conditional gate"), ROWS_WITHOUT_LIGHT)[TOWER]) == {0, 2}


def test_the_mean_of_epnets_gates_is_over_a_segments_rows_and_a_branchs_columns() -> None:
    ranker, seen = ranker_with("epnet"), []
    ranker.composition.gate.register_forward_hook(lambda unit, given, gates: seen.append(gates))

    means = means_of(ranker, ROWS)

    (gates,) = seen
    of_heavy = gates[[row.segment == 2 for row in ROWS]]
    assert means[TOWER][2] == pytest.approx(of_heavy[:, :JOINED_WIDTH].mean().item())
    assert means[NETWORK][2] == pytest.approx(of_heavy[:, JOINED_WIDTH:].mean().item())


def test_reading_changes_no_logit_and_nothing_is_kept_after_it() -> None:
    ranker = ranker_with("pepnet")
    with GateReading(ranker.composition, 3):
        read = ranker(batch_of(ROWS))

    assert torch.equal(read, ranker(batch_of(ROWS)))
    assert ranker.composition.noted_gates is ranker.composition.inner.noted_gates is None
    assert not [module for module in ranker.modules() if isinstance(module, GateUnit) and module._forward_hooks]
