"""Rankers to be audited: of every composition, in either mode, plain or wrapped, with a fault planted or none."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.composition.ranker import Ranker
from recsys.monitoring.gradient_flow import FlowReport, audit_flow
from recsys.monitoring.gradient_flow_faults import FlowFinding, Probe
from recsys.sharding.processes import ProcessContext
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.modes import END_TO_END, apply_training_mode, modules_frozen_in
from recsys.training.objectives.log_loss import log_loss_objective
from tests.composition.test_compositions import ranker_with
from tests.small_model import ROWS, SEGMENTS, batch_of

Plant = Callable[[Ranker], Any]


def probes_of(ranker: Ranker) -> list[Probe]:
    """The small rows, segment by segment."""
    return [
        Probe(
            segment,
            batch_of([row for row in ROWS if row.segment == number]),
            ranker.reached_by(number),
            tuple(ranker.composition.only_through.items()),
            ranker.composition.without_gradient,
        )
        for number, segment in enumerate(SEGMENTS)
    ]


def audited(
    composition: str,
    plant: Plant | None = None,
    *,
    mode: str = END_TO_END,
    segments: Sequence[str] = SEGMENTS,
    without: Sequence[str] = (),
    context: ProcessContext | None = None,
) -> FlowReport:
    """Audit a ranker of the composition: wrapped where there is a context; the fault is planted before wrapping.

    Args:
        segments: those that are probed; `without`: sparse features of which the probes have no id.
    """
    ranker = ranker_with(composition)
    apply_training_mode(ranker, mode)
    frozen = modules_frozen_in(ranker, mode)
    if plant is not None:
        plant(ranker)
    probes = [probe for probe in probes_of(ranker) if probe.segment in segments]
    for probe in probes:
        probe.batch.sparse = _emptied(probe.batch.sparse, without)
    return audit_flow(
        wrapped(ranker, frozen, context) if context else ranker, log_loss_objective, probes, frozen=frozen
    )


def _emptied(sparse: KeyedJaggedTensor, without: Sequence[str]) -> KeyedJaggedTensor:
    features = {key: feature for key, feature in sparse.to_dict().items() if key not in without}
    empty = {key: torch.zeros(sparse.stride(), dtype=sparse.lengths().dtype) for key in without}
    lengths = {key: feature.lengths() for key, feature in features.items()} | empty
    keys = sparse.keys()
    values = [features[key].values() for key in keys if key in features]
    return KeyedJaggedTensor(keys, torch.cat(values), lengths=torch.cat([lengths[key] for key in keys]))


def wrapped(ranker: Ranker, frozen: tuple[str, ...], context: ProcessContext) -> nn.Module:
    """The ranker in TorchRec's engine."""
    learning = TableOptimizer("rowwise_adagrad", 0.1)
    parts = ("embedding_tower", "interaction_network", "head")
    still = {part for part in parts if part in frozen or f"{part}.ebc" in frozen}
    return wrap_ranker(ranker, {part: None if part in still else learning for part in parts}, context)


def only(report: FlowReport) -> FlowFinding:
    """The report's one finding."""
    (finding,) = report.findings
    return finding


def after(change: Callable[[Tensor], Tensor], *path: str) -> Plant:
    """Let the module's forward pass its result through `change`."""

    def plant(ranker: Ranker) -> None:
        module = ranker.get_submodule(".".join(path))
        forward = module.forward
        module.forward = lambda *arguments, **keywords: change(forward(*arguments, **keywords))

    return plant


def stray_detach(module: str) -> Plant:
    """A `detach()` at the end of the module's forward."""
    return after(torch.Tensor.detach, module)


def times_zero(module: str) -> Plant:
    """A product with zero at the end of the module's forward."""
    return after(lambda output: output * 0.0, module)


def without_graph(module: str) -> Plant:
    """`torch.no_grad` around the module's forward."""

    def plant(ranker: Ranker) -> None:
        child = ranker.get_submodule(module)
        child.forward = torch.no_grad()(child.forward)

    return plant


def set_number(parameter: str, index: Any, value: float) -> Plant:
    """One number of a parameter or table replaced."""

    def plant(ranker: Ranker) -> None:
        with torch.no_grad():
            ranker.get_parameter(parameter)[index] = value

    return plant
