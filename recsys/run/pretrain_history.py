"""A history tower's pre-training: the objective, and the vectors that it brings from elsewhere."""

from recsys.config import HistoryTowerConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.towers.history import HistoryTower
from recsys.towers.history_pretraining import HistoryObjective
from recsys.towers.imported import import_tower
from recsys.towers.tower_spec import table_weight
from recsys.training.objectives.label_log_loss import weighted_log_loss


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
    return HistoryObjective(
        module,
        tower.readout_widths,
        weighted_log_loss,
        key_l2=tower.key_l2,
        factor_l2=tower.factor_l2,
        projection_pull=0.0 if tower.vectors is None else tower.vectors.projection_pull,
    )
