"""Every fault that the flow audit looks for, planted: it names the place, and nothing else."""

import pytest
import torch
from torch import nn

from recsys.composition.conditional import SegmentRoutedComposition
from recsys.composition.parallel import ParallelComposition
from recsys.composition.ranker import Ranker
from recsys.composition.sequential import SequentialComposition
from recsys.monitoring.gradient_flow_faults import FlowFault, Severity
from recsys.training.modes import FROZEN_TOWER, TOWER_DENSE, TOWER_TABLES
from tests.composition.test_compositions import ROUTES, ranker_with
from tests.monitoring.audited import (
    after,
    audited,
    only,
    set_number,
    stray_detach,
    times_zero,
    without_graph,
)

CROSSING = "interaction_network.crossing"
NETWORK_ITEMS = "interaction_network.fields.ebc.embedding_bags.network_item_id.weight"
TOWER_BRANDS = "embedding_tower.ebc.embedding_bags.tower_brand.weight"


@pytest.fixture(params=["plain", "wrapped"])
def engine(request, context):
    """What `audited` needs to leave a ranker plain or wrap it."""
    return context if request.param == "wrapped" else None


def collection_of(table: str, engine) -> str:
    """How the place of a table is called: wrapped, its kernel serves the whole collection."""
    return table.partition(".embedding_bags.")[0] if engine else table.removesuffix(".weight")


@pytest.mark.parametrize("composition", ["sequential", "concat", "conditional gate and experts", "conditional route"])
@pytest.mark.parametrize(
    "module",
    ["embedding_tower.user_side", "embedding_tower.item_side.0.0", CROSSING, f"{CROSSING}.linears.1", "head.hidden"],
)
def test_a_stray_detach_is_named(engine, composition, module):
    finding = only(audited(composition, stray_detach(module), context=engine))

    assert (finding.kind, finding.place, finding.severity) == (FlowFault.BLOCKED, module, Severity.ERROR)
    assert any(name.startswith(f"{module}.") for name in finding.parameters)
    assert f"blocked at `{module}`" in str(finding)


def test_the_module_after_which_the_graph_ends_is_told_with_the_one_that_ends_it(engine):
    finding = only(audited("sum", stray_detach("embedding_tower.user_side"), context=engine))

    assert "after `embedding_tower.user_side.1`" in finding.reasons[0]


@pytest.mark.parametrize(
    ("composition", "module"),
    [
        ("conditional gate and experts", "composition.segments.1.1.hidden"),
        ("parallel and conditional", "composition.segments.1.0"),
        ("conditional route and experts", "composition.experts.1"),
    ],
)
def test_a_detach_in_an_expert_is_seen_by_its_own_segment_alone(engine, composition, module):
    finding = only(audited(composition, stray_detach(module), context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, module)
    assert finding.segments == ("light",)


@pytest.mark.parametrize("composition", ["product", "gate", "conditional gate", "conditional route and experts"])
@pytest.mark.parametrize("branch", ["tower", "network"])
def test_a_detach_in_a_branch_projection_is_named_and_blocks_the_whole_branch(engine, composition, branch):
    module = f"composition.projection.{branch}"

    finding = only(audited(composition, stray_detach(module), context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, module)
    part = "embedding_tower." if branch == "tower" else "interaction_network."
    assert any(name.startswith(part) for name in finding.parameters)


def test_a_detach_between_two_modules_is_named_by_the_module_around_both(engine, monkeypatch):
    def forward(self, batch, embedding_tower, interaction_network):
        return self.join(self.projection(embedding_tower(batch).detach(), interaction_network(batch)))

    monkeypatch.setattr(ParallelComposition, "forward", forward)

    finding = only(audited("concat", context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, "composition")
    assert "after `embedding_tower`" in finding.reasons[0]


@pytest.mark.parametrize(
    ("composition", "module"),
    [("concat", "interaction_network"), ("sequential", "interaction_network"), ("sum", "embedding_tower")],
)
def test_no_grad_in_a_branch_is_named(engine, composition, module):
    finding = only(audited(composition, without_graph(module), context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, module)
    assert any("no_grad" in reason for reason in finding.reasons)


def test_no_grad_around_a_branch_is_named_by_the_composition_that_calls_it_so(engine, monkeypatch):
    def forward(self, batch, embedding_tower, interaction_network):
        with torch.no_grad():
            tower = embedding_tower(batch)
        return self.join(self.projection(tower, interaction_network(batch)))

    monkeypatch.setattr(ParallelComposition, "forward", forward)

    finding = only(audited("concat", context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, "composition")
    assert "`embedding_tower`" in finding.reasons[0]


def test_no_grad_around_everything_is_the_objectives():
    finding = only(audited("concat", without_graph("")))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, "the ranker")


@pytest.mark.parametrize("composition", ["sequential", "concat", "conditional gate and experts"])
def test_a_frozen_part_without_its_flag_leaks(engine, composition):
    def thaw(ranker: Ranker) -> None:
        ranker.embedding_tower.is_frozen = False

    report = audited(composition, thaw, mode=FROZEN_TOWER, context=engine)

    finding = only(report)
    assert (finding.kind, finding.place) == (FlowFault.LEAKING, "embedding_tower")
    assert any("training mode" in reason for reason in finding.reasons)
    # Fused tables take their gradient whatever `requires_grad` says, and step on it.
    assert (TOWER_BRANDS in finding.parameters) == (engine is not None)


def test_a_frozen_part_that_builds_a_graph_behind_its_detached_output_leaks(engine):
    """The dense gradients do not come, but a graph is kept for nothing, and one forgotten detach makes it learn."""

    def plant(ranker: Ranker) -> None:
        ranker.embedding_tower.is_frozen = False
        ranker.embedding_tower.requires_grad_(True)
        # Left in evaluation mode, so that the graph alone gives it away.
        ranker.embedding_tower.train = lambda mode=True: ranker.embedding_tower
        stray_detach("embedding_tower")(ranker)

    finding = only(audited("sum", plant, mode=FROZEN_TOWER, context=engine))

    assert finding.kind is FlowFault.LEAKING
    assert finding.place.startswith("embedding_tower.")
    assert "builds a graph" in finding.reasons[0]


def test_a_part_that_takes_itself_for_frozen_is_blocked(engine):
    def freeze(ranker: Ranker) -> None:
        ranker.embedding_tower.is_frozen = True

    finding = only(audited("concat", freeze, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, "embedding_tower")


@pytest.mark.parametrize("composition", ["sequential", "parallel and conditional"])
def test_a_parameter_that_nothing_uses_is_dead(engine, composition):
    def plant(ranker: Ranker) -> None:
        ranker.head.spare = nn.Parameter(torch.ones(2))

    finding = only(audited(composition, plant, context=engine))

    assert (finding.kind, finding.place, finding.parameters) == (FlowFault.DEAD, "head.spare", ("head.spare",))


def test_a_module_that_is_never_called_is_dead(engine):
    def plant(ranker: Ranker) -> None:
        ranker.interaction_network.spare = nn.Linear(2, 2, bias=False)

    finding = only(audited("concat", plant, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.DEAD, "interaction_network.spare.weight")
    assert "never called" in finding.reasons[0]


def test_a_parameter_that_asks_for_no_gradient_in_a_part_that_learns_is_dead(engine):
    def plant(ranker: Ranker) -> None:
        ranker.head.output.bias.requires_grad_(False)

    finding = only(audited("concat", plant, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.DEAD, "head.output.bias")
    assert "requires_grad" in finding.reasons[0]


def test_a_branch_that_is_never_called_is_dead_with_its_tables(engine, monkeypatch):
    def forward(self, batch, embedding_tower, interaction_network):
        network = interaction_network(batch)
        return self.join(self.projection(network.new_ones(len(batch), 12), network))

    monkeypatch.setattr(ParallelComposition, "forward", forward)

    report = audited("concat", context=engine)

    dead = {name for finding in report.findings for name in finding.parameters}
    assert {finding.kind for finding in report.findings} == {FlowFault.DEAD}
    assert TOWER_BRANDS in dead
    assert "embedding_tower.user_side.1.weight" in dead
    assert {name.split(".")[0] for name in dead} == {"embedding_tower"}


@pytest.mark.parametrize("composition", ["sequential", "concat", "conditional gate and experts"])
@pytest.mark.parametrize("module", ["embedding_tower.item_side", CROSSING, "interaction_network.deep"])
def test_a_product_with_zero_is_named_where_the_gradient_turns_to_zeros(engine, composition, module):
    finding = only(audited(composition, times_zero(module), context=engine))

    assert (finding.kind, finding.place, finding.severity) == (FlowFault.ZERO, module, Severity.ERROR)


def test_a_layer_whose_every_relu_is_closed_is_zero(engine):
    def close(ranker: Ranker) -> None:
        nn.init.constant_(ranker.head.hidden.layers[0].bias, -1e6)

    finding = only(audited("concat", close, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.ZERO, "head.hidden.layers.1")
    assert finding.severity is Severity.ERROR


def test_a_factor_that_starts_at_zero_is_a_note_and_no_error(engine):
    """As the second matrix of a low-rank adapter: the first one's gradient is zero at first, and only at first."""

    def plant(ranker: Ranker) -> None:
        nn.init.zeros_(ranker.composition.projection.tower.weight)

    report = audited("concat", plant, context=engine)

    assert report.is_clean
    assert {(finding.kind, finding.severity) for finding in report.findings} == {(FlowFault.ZERO, Severity.NOTE)}
    report.require_clean()


def test_dropout_rests_and_makes_no_zeros(engine):
    """With every number dropped no gradient would be anything but zeros."""
    report = audited("concat", lambda ranker: ranker.head.hidden.layers.append(nn.Dropout(1.0)), context=engine)

    assert report.findings == ()


def test_a_table_that_no_id_of_the_probe_looks_up_is_due_no_gradient(engine):
    report = audited("concat", segments=("light",), without=("brand",), context=engine)

    assert report.findings == ()


@pytest.mark.parametrize("composition", ["sequential", "gate", "conditional route and experts"])
@pytest.mark.parametrize("module", [f"{CROSSING}.linears.1", "interaction_network.deep.layers.0", "head.output"])
def test_a_nan_in_one_layers_weight_is_named(engine, composition, module):
    finding = only(audited(composition, set_number(f"{module}.weight", (0, 0), float("nan")), context=engine))

    assert (finding.kind, finding.place) == (FlowFault.NON_FINITE, module)
    assert f"{module}.weight" in finding.parameters


def test_an_infinite_number_in_a_table_row_is_named_with_its_row(engine):
    report = audited("concat", set_number(NETWORK_ITEMS, (3, 1), float("inf")), context=engine)

    place = collection_of(NETWORK_ITEMS, engine)
    finding = next(each for each in report.findings if each.place == place)
    assert finding.kind is FlowFault.NON_FINITE
    assert f"`{NETWORK_ITEMS}` holds numbers that are not finite, first in row 3" in finding.reasons
    assert all(each.kind is FlowFault.NON_FINITE for each in report.findings)


def test_an_infinite_number_in_a_row_that_no_probe_looks_up_is_found_too(engine):
    """The light segment's one row is user 4's."""
    users = "embedding_tower.ebc.embedding_bags.tower_user_id.weight"

    finding = only(audited("concat", set_number(users, 0, float("inf")), segments=("light",), context=engine))

    assert (finding.kind, finding.segments, finding.parameters) == (FlowFault.NON_FINITE, (), (users,))
    assert "first in row 0" in finding.reasons[0]


def test_a_gradient_that_is_not_finite_behind_a_finite_forward_is_named(engine):
    """The root of 0 is 0, and its slope is infinite."""
    root = after(lambda output: output + torch.sqrt(output.sum() * 0.0), "interaction_network.deep")

    finding = only(audited("concat", root, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.NON_FINITE, "interaction_network.deep")
    assert "backward" in finding.reasons[0]


def test_a_gradient_into_another_segments_expert_leaks(engine, monkeypatch):
    """Computing all experts and masking gives the absent ones zeros, by which AdamW moves them."""
    forward = SegmentRoutedComposition.forward

    def all_experts(self, *arguments):
        joined = forward(self, *arguments)
        return joined + 0.0 * sum(expert(joined) for expert in self.experts)

    monkeypatch.setattr(SegmentRoutedComposition, "forward", all_experts)

    report = audited("conditional route and experts", context=engine)

    assert {finding.kind for finding in report.findings} == {FlowFault.LEAKING}
    assert {finding.place for finding in report.findings} == {f"composition.experts.{s}" for s in range(3)}
    (second,) = (finding for finding in report.findings if finding.place.endswith("1"))
    assert second.segments == ("new", "heavy")
    assert "of zeros" in second.reasons[0]


def test_a_row_that_passes_a_branch_beside_its_route_leaks(engine):
    def reroute(ranker: Ranker) -> None:
        ranker.composition.reached_by = lambda segment: declared[segment]
        ranker.composition.passing = dict.fromkeys(ranker.composition.passing, frozenset(range(len(ROUTES))))

    sound = ranker_with("conditional route")
    declared = {segment: sound.composition.reached_by(segment) for segment in range(len(ROUTES))}

    report = audited("conditional route", reroute, context=engine)

    assert {finding.kind for finding in report.findings} == {FlowFault.LEAKING}
    leaks = {(finding.place, finding.segments) for finding in report.findings}
    assert ("embedding_tower", ("light",)) in leaks
    assert ("interaction_network", ("new",)) in leaks


def test_a_way_past_the_crossing_leaks_in_the_sequential_composition(engine, monkeypatch):
    def shortcut(self, batch, embedding_tower, interaction_network):
        field = self.tower_field(embedding_tower(batch))
        return interaction_network(batch, tower_field=field) + field.sum(dim=1, keepdim=True)

    monkeypatch.setattr(SequentialComposition, "forward", shortcut)

    finding = only(audited("sequential", context=engine))

    assert (finding.kind, finding.place) == (FlowFault.LEAKING, "embedding_tower")
    assert f"past `{CROSSING}`" in finding.reasons[0]


def test_two_faults_are_both_named(engine):
    def plant(ranker: Ranker) -> None:
        stray_detach("embedding_tower.user_side")(ranker)
        times_zero("interaction_network.deep")(ranker)

    report = audited("concat", plant, context=engine)

    assert {(finding.kind, finding.place) for finding in report.findings} == {
        (FlowFault.BLOCKED, "embedding_tower.user_side"),
        (FlowFault.ZERO, "interaction_network.deep"),
    }


def test_the_frozen_half_of_a_tower_leaks_where_its_own_flag_is_missing(engine):
    """The layers learn and the tables are frozen: fused tables would step on the gradient that comes through."""

    def thaw(ranker: Ranker) -> None:
        ranker.embedding_tower.ebc.is_frozen = False

    finding = only(audited("concat", thaw, mode=TOWER_DENSE, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.LEAKING, "embedding_tower.ebc")
    assert (TOWER_BRANDS in finding.parameters) == (engine is not None)


def test_layers_above_tables_that_learn_may_be_frozen_but_not_cut_their_graph(engine):
    finding = only(audited("concat", stray_detach("embedding_tower.item_side"), mode=TOWER_TABLES, context=engine))

    assert (finding.kind, finding.place) == (FlowFault.BLOCKED, "embedding_tower.item_side")
    assert TOWER_BRANDS in finding.parameters
