"""A history tower's pre-training: the objective, and the vectors that it brings from elsewhere."""

from functools import partial

from torch import Tensor

from recsys.config import HistoryTowerConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.features.batch import Batch
from recsys.features.graded import GRADE, Graded
from recsys.towers.history import HistoryTower
from recsys.towers.history_pretraining import HistoryObjective
from recsys.towers.imported import import_tower
from recsys.towers.tower_spec import table_weight
from recsys.training.objectives.label_log_loss import weighted_log_loss
from recsys.training.objectives.ordinal import ordinal_loss


def history_objective(tower: HistoryTowerConfig, module: HistoryTower, encoded: EncodedDataset) -> HistoryObjective:
    """Return what a history tower is pre-trained by, with the imported vectors that it reads, if any.

    Raises:
        DataError: the vectors to import are damaged.
    """
    if tower.vectors is not None:
        schema = encoded.contract.schema
        vocabulary = encoded.vocabulary(schema.feature(schema.item).table)
        made = import_tower(
            tower.vectors.file,
            vocabulary,
            schema,
            width=tower.vectors.width,
            id_column=tower.vectors.id_column,
            vector_column=tower.vectors.vector_column,
        )
        module.load_vectors(made.weights[table_weight(vocabulary.table)])
    graded = encoded.contract.schema.graded if grades_of(encoded) else None
    return HistoryObjective(
        module,
        tower.readout_widths,
        _label_loss if graded is None else partial(_grade_loss, graded),
        outputs=1 if graded is None else len(graded.thresholds),
        key_l2=tower.key_l2,
        factor_l2=tower.factor_l2,
        projection_pull=0.0 if tower.vectors is None else tower.vectors.projection_pull,
    )


def grades_of(encoded: EncodedDataset) -> tuple[str, ...]:
    """The column of grades, where the data have it: a history tower learns from them."""
    return (GRADE,) if encoded.contract.schema.graded and GRADE in encoded.contract.extras else ()


def _label_loss(logits: Tensor, batch: Batch) -> Tensor:
    return weighted_log_loss(logits.squeeze(1), batch.label, batch.weight)


def _grade_loss(graded: Graded, logits: Tensor, batch: Batch) -> Tensor:
    return ordinal_loss(logits.unsqueeze(1), batch.extra[GRADE], batch.weight, graded.thresholds, graded.loss_weights)
