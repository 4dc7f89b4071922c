"""Compiled layers are the layers: the same names and numbers, one graph for all batch sizes, and counted."""

import pytest
import torch

from recsys.errors import UsageError
from recsys.sharding.whole_state import whole_state
from recsys.training import compiled_layers
from recsys.training.compiled_layers import CompiledLayers, require_compiler
from tests.small_model import ROWS, batch_of
from tests.training.small_run import Batches, gated_ranker, small_run

# The last of them is smaller, as an epoch's is. None has as many rows as there are fields, which torch takes for one
# number where it first meets them.
BATCHES = [batch_of(2 * ROWS), batch_of(2 * ROWS[::-1]), batch_of(2 * ROWS[:4])]


def test_a_compiled_ranker_learns_as_one_that_is_not_and_keeps_every_name(context):
    plain, compiled = small_run(context), small_run(context)
    plain.stream, compiled.stream = Batches(list(BATCHES)), Batches(list(BATCHES))
    names = [*compiled.ranker.module.state_dict()]
    layers = CompiledLayers(compiled.ranker, backend="aot_eager")

    losses, expected = ([report.loss for report in run.train(6)] for run in (compiled, plain))

    assert losses == pytest.approx(expected, abs=1e-5)
    assert [*compiled.ranker.module.state_dict()] == names
    assert {name: tensor.shape for name, tensor in whole_state(compiled.ranker).items()} == {
        name: tensor.shape for name, tensor in whole_state(plain.ranker).items()
    }
    assert layers.graphs == 3  # crossing, deep layers, head: none for the batch of another size


def test_the_towers_gradient_is_still_read_by_segment(context):
    plain, compiled = small_run(context), small_run(context)
    CompiledLayers(compiled.ranker, backend="aot_eager")

    # Further backward passes through the graph of the step.
    shares, expected = (
        [each.segment_shares for each in run.train(2, segment_view_every=1)] for run in (plain, compiled)
    )

    assert len(shares) == 2
    assert [*shares[1]] == [*expected[1]]
    assert [*shares[1].values()] == pytest.approx([*expected[1].values()], rel=1e-3)


def test_evaluation_has_graphs_of_its_own_and_the_same_numbers(context):
    plain, compiled = small_run(context).ranker.module.eval(), small_run(context).ranker.module.eval()
    layers = CompiledLayers(compiled, backend="aot_eager")

    with torch.no_grad():
        for batch in BATCHES:
            assert torch.allclose(compiled(batch), plain(batch), atol=1e-6)
    assert layers.graphs == 3
    compiled.train()(BATCHES[0])
    assert layers.graphs == 6


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled_layers.shutil, "which", lambda name: None)

    with pytest.raises(
        UsageError, match=r"none of g\+\+, clang\+\+ is on the path. Install one .*apt-get install g\+\+"
    ):
        require_compiler()


def test_the_compiler_that_cxx_names_is_the_one_that_is_looked_for(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(UsageError, match="none of no-such-compiler is on the path"):
        CompiledLayers(gated_ranker())
