"""The flow audit finds nothing in a sound ranker, and leaves no trace of itself in any."""

import copy
import json

import pytest
import torch
from torch import nn

from recsys.errors import TrainingError
from recsys.monitoring.gradient_flow import audit_flow
from recsys.run.audit import make_probes
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import table_weights, whole
from recsys.training.modes import END_TO_END, FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES, apply_training_mode
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.objectives.listwise import QUERY
from tests.composition.test_compositions import COMPOSITIONS, ranker_with
from tests.method.test_objectives_equal_a_plain_model import OBJECTIVES, ranker_of
from tests.method.test_objectives_equal_a_plain_model import batch as graded_batch
from tests.monitoring.audited import audited, probes_of, set_number, stray_detach, wrapped
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import table_optimizer_state
from tests.small_model import SEGMENTS
from tests.training.small_run import small_run

TABLE = "interaction_network.fields.ebc.embedding_bags.network_item_id.weight"


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("mode", [END_TO_END, FROZEN_TOWER, TOWER_TABLES, TOWER_DENSE])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_a_sound_ranker_is_clean_in_every_composition_and_mode(context, composition, mode, is_wrapped):
    report = audited(composition, mode=mode, context=context if is_wrapped else None)

    assert report.findings == ()
    assert report.is_clean
    report.require_clean()


def test_the_table_says_what_reached_what(context):
    report = audited("conditional route and experts", mode=FROZEN_TOWER, context=context)

    cells = {(cell.segment, cell.module): cell for cell in report.cells}
    assert cells["new", "embedding_tower"].expected == "frozen"
    assert cells["new", "embedding_tower"].norm is None
    assert cells["light", "interaction_network"].expected == "learns"
    assert cells["light", "interaction_network"].norm > 0
    assert cells["light", "composition.experts.1"].norm > 0
    assert cells["light", "composition.experts.0"].expected == "elsewhere"
    assert cells["light", "composition.experts.0"].norm is None
    # Every row looks its ids up; those that pass elsewhere bring the network's tables zeros.
    assert (cells["new", "interaction_network"].expected, cells["new", "interaction_network"].norm) == ("elsewhere", 0)
    assert len(cells) == len(SEGMENTS) * len({cell.module for cell in report.cells})


def test_wrapped_or_not_the_norms_are_the_same(context):
    plain, sharded = audited("concat"), audited("concat", context=context)

    for one, other in zip(plain.cells, sharded.cells, strict=True):
        assert (one.segment, one.module) == (other.segment, other.module)
        assert one.norm == pytest.approx(other.norm, rel=1e-5)


def state_of(ranker: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that an audit could move, by name."""
    state = {**inventory_of(ranker).dense_parameters(), **inventory_of(ranker).dense_buffers()}
    state |= {**table_weights(ranker), **table_optimizer_state(ranker)}
    state |= {
        f"{name}.grad": p.grad for name, p in inventory_of(ranker).dense_parameters().items() if p.grad is not None
    }
    state |= {f"forward passes of kernel {i}": k.module.iter for i, k in enumerate(inventory_of(ranker).fused)}
    state |= {f"{name} trains": torch.tensor(module.training) for name, module in ranker.named_modules()}
    return copy.deepcopy({**state, "random state": torch.get_rng_state()})


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_reaches_all_that_it_should(context, name, members):
    objective, _, outputs = OBJECTIVES[name]
    ranker = ranker_of(members, **outputs)
    probes = make_probes(ranker, [graded_batch()], SEGMENTS, QUERY)
    report = audit_flow(wrapped(ranker, (), context), objective, probes, frozen=())

    assert report.findings == ()
    rows = {cell.module for cell in report.cells if cell.module.startswith("head.members.")}
    assert len(rows) == (members if members > 1 else 0)


@pytest.mark.parametrize("fault", [None, "head.output"])
def test_the_audit_leaves_every_bit_as_it_was(context, fault):
    """After steps that filled all optimizer state; with batch statistics and dropout; also where zeros need a retry."""
    run = small_run(context)
    run.train(2)
    ranker = run.ranker.module
    ranker.head.hidden.layers.append(nn.BatchNorm1d(4))
    ranker.head.hidden.layers.append(nn.Dropout(0.5))
    ranker.head.hidden.layers.eval()  # not the mode that the audit runs in
    for parameter in inventory_of(ranker).dense_parameters().values():
        parameter.grad = torch.ones_like(parameter)
    if fault:
        nn.init.zeros_(ranker.get_submodule(fault).weight)
    before, moments = state_of(ranker), copy.deepcopy(whole(run.optimizers.parts()))

    report = audit_flow(run.ranker, log_loss_objective, [probes_of(ranker)[0], probes_of(ranker)[2]], frozen=())

    after = state_of(ranker)
    # Batch statistics of two rows cancel some biases' gradients; a head of zeros lets none through.
    assert report.is_clean
    assert bool(fault) == any("head.hidden.layers.0.weight" in finding.parameters for finding in report.findings)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert moments.keys() == whole(run.optimizers.parts()).keys()
    assert all(torch.equal(value, moments[name]) for name, value in whole(run.optimizers.parts()).items())


def test_a_training_step_after_the_audit_is_the_step_without_it(context):
    audited_run, other = small_run(context), small_run(context)
    for run in (audited_run, other):
        torch.manual_seed(3)
        if run is audited_run:
            audit_flow(run.ranker, log_loss_objective, probes_of(run.ranker.module), frozen=())
        run.train(3)

    one, two = (state_of(run.ranker.module) for run in (audited_run, other))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_an_audit_that_breaks_off_leaves_no_hook_and_no_gradient(context):
    ranker = ranker_with("concat")

    with pytest.raises(AttributeError):
        audit_flow(ranker, lambda module, batch: module(None), probes_of(ranker), frozen=())

    assert all(p.grad is None for p in ranker.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ranker.modules())


def test_a_report_can_be_attached_as_json():
    report = audited("concat", stray_detach("interaction_network.crossing"))

    document = json.loads(json.dumps(report.to_document()))

    assert document["is_clean"] is False
    assert document["findings"][0]["place"] == "interaction_network.crossing"
    assert document["findings"][0]["kind"] == "blocked"
    assert document["cells"][0]["segment"] == "new"


def test_what_was_found_fails_a_run_by_name():
    report = audited("concat", stray_detach("interaction_network.crossing"))

    with pytest.raises(TrainingError, match=r"(?s)before the first step.*blocked at `interaction_network\.crossing`"):
        report.require_clean()


def audit_in_two(context):
    """What each of two processes is told of a sound ranker, of a cut one, and where one process alone holds a NaN."""
    told = {}
    for name in ("sound", "detach", "NaN in the second process"):
        ranker = ranker_with("concat")
        apply_training_mode(ranker, END_TO_END)
        probes = probes_of(ranker)
        sharded = wrapped(ranker, (), context)
        if name == "detach":
            stray_detach("composition.projection.network")(ranker)
        if name.startswith("NaN") and context.rank == 1:
            set_number("head.output.bias", 0, float("nan"))(ranker)
        report = audit_flow(sharded, log_loss_objective, probes, frozen=())
        told[name] = [(str(finding.kind), finding.place) for finding in report.findings]
    return told


def test_two_processes_are_told_the_same(tmp_path):
    first, second = run_in_two(audit_in_two, tmp_path)

    assert first == second
    assert first["sound"] == []
    assert first["detach"] == [["blocked", "composition.projection.network"]]
    assert first["NaN in the second process"] == [["non-finite", "head.output"]]
