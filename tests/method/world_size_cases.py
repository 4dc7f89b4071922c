"""One training, whole, on any number of processes: what there is to compare, and the curves that come of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.evaluation.ranks import rank
from recsys.features.batch import Batch
from recsys.progress import silent
from recsys.run import prepare, pretrain
from recsys.run.assemble import loop_settings, ready_ranker
from recsys.run.fitted_baselines import evaluated, validation_of
from recsys.run.streams import TEST
from recsys.sharding.processes import ProcessContext
from recsys.training.loop import LoopState, train_steps
from recsys.training.snapshot import BestWeights

_ROUTES = (
    "students:[embedding_tower],commuters:[interaction_network],families:[embedding_tower,interaction_network],"
    "collectors:[interaction_network]"
)
COMPOSITIONS = {
    "conditional": [],
    "conditional_route": [f"composition.routes={{{_ROUTES}}}"],
    "epnet": [],
    "parallel": [],
    "parallel_conditional": [],
    "ppnet": [],
    "segment_linear": [],
    "sequential": [],
    "shared_residual_expert": [],
    "star": [],
}
MODES = {
    "end_to_end": [],
    "by_segment": ["training_mode.rungs={families: all, students: tables, commuters: adapter, collectors: frozen}"],
    "frozen_adapter": [],
    "frozen_tower": [],
    "staged_tables_first": [],
    "staged_top_first": [],
}
SIMULATED, RATINGS, PURCHASES = "simulated", "ratings", "purchases"
_PASSES = ("tower.batch_size=64", "tower.epochs=2")
# By tower; no random number that a process would draw for rows of its own.
_TOWER = {
    "sequence": [*_PASSES, "tower.dropout=0", "tower.id_dropout=0", "tower.width=8", "tower.negatives=16"],
    "history": [
        *(*_PASSES, "tower.event_dropout=0", "tower.history_dropout=0", "tower.key_dropout=0"),
        *("tower.key_width=4", "tower.factor_width=4", "tower.weight_decay=0"),
    ],
    "title_vectors": ["tower.id_column=item_id", "tower.width=8"],
}


@dataclass(frozen=True)
class WorldSizeCase:
    """What is trained.

    Attributes:
        world: the rows: one of the three above.
        is_weighted: whether rows weigh from 0 to 3, by their user and item.
        pretrains: whether the tower's own training is compared, and not the ranker's.
    """

    world: str
    overrides: tuple[str, ...] = ()
    is_weighted: bool = False
    pretrains: bool = False


def _cases() -> dict[str, WorldSizeCase]:
    cases = {
        f"{mode}, {name}": WorldSizeCase(SIMULATED, (f"composition={name}", f"training_mode={mode}", *words))
        for name, words in COMPOSITIONS.items()
        for mode in ("end_to_end", "frozen_tower")
    }
    cases |= {
        f"{mode}, conditional": WorldSizeCase(SIMULATED, ("composition=conditional", f"training_mode={mode}", *words))
        for mode, words in MODES.items()
    }
    clipped = ("training.max_gradient_norm=0.1", "training.average_decay=0.9", "training.table_l2={head:0.01}")
    cases |= {
        "by_segment, weighted rows, epnet": WorldSizeCase(
            SIMULATED, ("composition=epnet", "training_mode=by_segment", *MODES["by_segment"]), is_weighted=True
        ),
        "weighted rows": WorldSizeCase(SIMULATED, is_weighted=True),
        "weighted rows, conditional": WorldSizeCase(SIMULATED, ("composition=conditional",), is_weighted=True),
        "clipped, averaged weights, table L2": WorldSizeCase(SIMULATED, clipped),
        "ordinal, weighted rows": WorldSizeCase(RATINGS, ("training.objective=ordinal",), is_weighted=True),
        "listwise": WorldSizeCase(PURCHASES, ("training.objective=listwise",)),
        "around a sequence tower": WorldSizeCase(PURCHASES, ("tower=sequence",)),
        "around a history tower": WorldSizeCase(RATINGS, ("tower=history",)),
        "around imported vectors": WorldSizeCase(RATINGS, ("tower=title_vectors",)),
        "four members": WorldSizeCase(SIMULATED, ("composition.members=4", "composition.head_hidden=[8]")),
        "pre-training two towers": WorldSizeCase(SIMULATED, pretrains=True),
        "pre-training a sequence tower": WorldSizeCase(PURCHASES, ("tower=sequence",), pretrains=True),
        "pre-training a history tower": WorldSizeCase(RATINGS, ("tower=history",), pretrains=True),
    }
    return cases


CASES: Mapping[str, WorldSizeCase] = _cases()


def curves_of(
    context: ProcessContext, name: str, words: list[str], root: str, steps: int, batch: int
) -> dict[str, Any]:
    """Train one case and return its numbers; with several processes each returns the same.

    Args:
        words: overrides of its world.
        root: for what this number of processes makes.
        batch: rows of a step, in all processes.
    """
    case = CASES[name]
    tower = next((word.partition("=")[2] for word in case.overrides if word.startswith("tower=")), "")
    if tower:
        words = [word for word in words if not word.startswith("tower.")] + _TOWER[tower]
    config = compose_config(
        [
            *words,
            *case.overrides,
            *("training.row_order=time", f"training.batch_size={batch}", "training.epochs=1000"),
            *("training.tower_day_share=0", "training.patience=1000", "training.report_every=1"),
            *("training.segment_view_every=0", "training.learning_rate=0.001", "training.table_learning_rate=0.02"),
        ]
    )
    return _pretrained(config, root) if case.pretrains else _trained(config, case, steps)


def _pretrained(config: RunConfig, root: str) -> dict[str, Any]:
    runtime = replace(config.runtime, towers=Path(root, "towers"), runs=Path(root, "runs"))
    config = replace(config, runtime=runtime)
    artifact = pretrain.run(config, prepare.run(config, silent), silent)
    weights = {name: weight.double().norm().item() for name, weight in artifact.weights.items()}
    said = {name: value for name, value in artifact.provenance.items() if name.startswith("validation_")}
    return {"loss": [said["validation_loss"]], "norm": list(weights.values()), "metrics": said}


def _trained(config: RunConfig, case: WorldSizeCase, steps: int) -> dict[str, Any]:
    encoded = prepare.run(config, silent)
    ready = ready_ranker(config, encoded, pretrain.run(config, encoded, silent), silent)
    wrapped, stages, context = ready.assembly.wrapped, ready.assembly.stages, ready.context
    settings = loop_settings(ready.config.training, ready.stream.num_batches, encoded.contract.schema.segments)
    best, state = BestWeights(wrapped), LoopState()

    def loss(ranker: nn.Module, rows: Batch) -> Tensor:
        return ready.objective.loss(ranker, _weighted(rows, encoded.contract.schema) if case.is_weighted else rows)

    validate = validation_of(wrapped, ready.start, ready.config, encoded, context)
    began = time.perf_counter()
    reports = list(
        train_steps(
            wrapped,
            ready.assembly.optimizers,
            ready.stream,
            loss,
            replace(settings, max_steps=steps, norms_every=1),
            context,
            state=state,
            best=best,
            validate=validate,
            checkpoint=lambda _: None,
            should_stop=lambda: False,
            stages=stages,
            average=ready.assembly.average,
        )
    )
    seconds = time.perf_counter() - began
    baselines = evaluated(ready.baselines, config, encoded, TEST, context)
    of_baselines = {f"{who} {name}": value for who, each in baselines.items() for name, value in each.items()}
    return {
        "loss": [report.loss for report in reports],
        "norm": [report.gradient_norms["whole"] for report in reports],
        "rows": [report.rows_seen for report in reports],
        "stage": [report.stage for report in reports],
        "metrics": {**(reports[-1].validation or {}), **of_baselines},
        "proof": {part: each["is_unchanged"] for part, each in stages.record(state.step).items()},
        "milliseconds": 1e3 * seconds / steps if rank() == 0 else 0.0,
    }


def _weighted(batch: Batch, schema: Any) -> Batch:
    """The batch with weights from 0 to 3, the same for a row wherever it lies."""
    user, item = (batch.sparse[name].values() for name in (schema.user, schema.item))
    return replace(batch, weight=((user + 3 * item) % 4).float())
