"""Compositions that stand on another one: their gradients, absent segments, waits of the host, and the audit."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from recsys.build import build_ranker, describe_ranker, rebuild_ranker
from recsys.composition.gate_unit import GateUnit
from recsys.composition.ranker import Ranker
from recsys.config.compose import compose_config
from recsys.monitoring.gradient_flow_faults import FlowFault, Severity
from recsys.sharding.inventory import inventory_of
from tests.composition.test_compositions import NESTED, ranker_with
from tests.method.lower_precision import gradients
from tests.method.plain_nested import PLAIN
from tests.method.plain_ranker import PlainRanker
from tests.method.test_absent_segments_are_unchanged import everything_dense, moved, step
from tests.method.test_gradients_equal_a_plain_model import assert_same_gradients
from tests.monitoring.audited import audited
from tests.small_model import (
    NETWORK_WIDTH,
    ROWS,
    ROWS_WITHOUT_LIGHT,
    TOWER_WIDTH,
    Row,
    batch_of,
    small_contract,
    two_tower_spec,
)
from tests.training.host_waits import host_waits
from tests.training.small_run import small_run

LIGHT = 1


@pytest.mark.parametrize("rows", [ROWS, ROWS_WITHOUT_LIGHT], ids=["all segments", "one segment absent"])
@pytest.mark.parametrize("name", PLAIN)
def test_every_parameter_gets_the_plain_models_gradient(name: str, rows: Sequence[Row]) -> None:
    assert_same_gradients(ranker_with(name), PlainRanker(PLAIN[name]), rows)


@pytest.mark.parametrize("name", NESTED)
def test_what_belongs_to_an_absent_segment_keeps_every_bit(name: str, context) -> None:
    ranker = ranker_with(name)
    optimizer = torch.optim.AdamW(inventory_of(ranker).dense_parameters().values(), lr=0.01, weight_decay=0.1)
    begin = everything_dense(ranker, optimizer)
    for _ in range(2):
        step(ranker, optimizer, ROWS, context)
    before = everything_dense(ranker, optimizer)

    for _ in range(2):
        step(ranker, optimizer, ROWS_WITHOUT_LIGHT, context)

    own = f"composition.segments.{LIGHT}."
    assert {name for name in before if name.startswith(own)} <= moved(begin, before)
    assert not [name for name in moved(before, everything_dense(ranker, optimizer)) if own in name]


@pytest.mark.parametrize("name", NESTED)
def test_lower_precision_gives_every_parameter_its_gradient(name: str) -> None:
    single, lower = (gradients(ranker_with(name), ROWS, each, torch.device("cpu")) for each in (None, torch.bfloat16))

    whole, rounded = (torch.cat([each[key].flatten() for key in single]) for each in (single, lower))
    assert (rounded - whole).norm() < 0.2 * whole.norm()  # among six rows one ReLU's kink is a tenth


@pytest.mark.parametrize("name", NESTED)
def test_no_nested_composition_makes_the_host_wait(name: str) -> None:
    ranker, batch = ranker_with(name), batch_of(ROWS)
    batch.segment_counts = (3, 1, 2)
    tower, network = torch.randn(6, 3 * TOWER_WIDTH), torch.randn(6, NETWORK_WIDTH)

    with host_waits() as found:
        ranker.composition(batch, lambda batch, rows=None: tower, lambda batch, rows=None: network).sum().backward()
    assert found == {}


@pytest.mark.parametrize("name", NESTED)
def test_the_audit_finds_no_fault(name: str) -> None:
    assert [each for each in audited(name).findings if each.severity is Severity.ERROR] == []


def test_a_gate_through_which_its_input_gets_a_gradient_after_all_is_found() -> None:
    def plant(ranker: Ranker) -> None:
        def forward(prior: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            unit = ranker.composition.gate
            return 2 * torch.sigmoid(unit.output(torch.relu(unit.hidden(torch.cat([prior, rows], dim=1)))))

        ranker.composition.gate.forward = forward

    (finding, *_) = [each for each in audited("epnet", plant).findings if each.severity is Severity.ERROR]
    assert (finding.kind, finding.place) == (FlowFault.LEAKING, "composition.gate")


@pytest.mark.parametrize("name", ["epnet", "ppnet"])
def test_a_gate_that_does_not_declare_its_cut_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ranker_with(name).composition), "without_gradient", frozenset())

    kinds = {each.kind for each in audited(name).findings if each.severity is Severity.ERROR}
    assert kinds == {FlowFault.BLOCKED}


def test_gates_start_at_one_and_stay_between_zero_and_two() -> None:
    unit = GateUnit(prior_width=2, input_width=3, hidden_width=4, output_width=3)
    prior, rows = torch.randn(5, 2), torch.randn(5, 3)
    assert unit(prior, rows).tolist() == [[1.0] * 3] * 5

    nn.init.normal_(unit.output.weight, std=100.0)
    gates = unit(prior, rows)
    assert gates.min() >= 0
    assert gates.max() <= 2
    assert len(gates.unique()) > 2


def words(kind: str) -> list[str]:
    return [f"composition={kind}", "composition.inner.width=8"]


@pytest.mark.parametrize("kind", ["shared_residual_expert", "star", "epnet", "ppnet", "segment_linear"])
def test_every_segment_starts_as_the_shared_model(kind: str) -> None:
    config = compose_config(words(kind))
    ranker = build_ranker(config.network, config.composition, two_tower_spec(), small_contract(), seed=0)
    # The gates' priors differ, and what they say is silent at first; the network's own field of the segment is not.
    (table,) = [p for name, p in ranker.interaction_network.named_parameters() if "user segment" in name]
    nn.init.zeros_(table)
    rows = [Row(0.5, 1, 2, -1.0, 1, (3, 3, 1), segment, 1) for segment in range(3)]

    logits = ranker(batch_of(rows))

    torch.testing.assert_close(logits, logits[:1].expand(3))


def test_a_nested_composition_is_described_and_built_again() -> None:
    over = [
        "composition.inner.name=epnet",
        "composition.inner.inner.name=sequential",
        "composition.inner.prior_width=3",
    ]
    config = compose_config(["composition=ppnet", *over])
    ranker = build_ranker(config.network, config.composition, two_tower_spec(), small_contract(), seed=0)
    described = describe_ranker(config.network, config.composition, two_tower_spec())

    again = rebuild_ranker(described, small_contract())
    again.load_state_dict(copy.deepcopy(ranker.state_dict()))

    assert torch.equal(again(batch_of(ROWS)), ranker(batch_of(ROWS)))
    assert ranker.reached_by(0) >= {"composition.inner.inner.tower_field", "composition.inner.segments.0"}


def test_a_delta_decays_by_its_own_rate(context) -> None:
    run = small_run(context, ranker=ranker_with("segment linear"), weight_decay=0.5)

    lines = {line.parameter: line.weight_decay for line in run.optimizers.contract()}

    assert lines["composition.segments.1.weight"] == 0.1
    assert lines["composition.shared.weight"] == 0.5
    assert lines["composition.segments.1.bias"] == 0.0
