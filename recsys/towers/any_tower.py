"""Any of the towers, from its description."""

from recsys.features.contract import FeatureContract
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.history import HistoryTower
from recsys.towers.tower_spec import TowerKind, TowerSpec

Tower = EmbeddingTower | HistoryTower


def build_tower(spec: TowerSpec, contract: FeatureContract) -> Tower:
    """Return the tower that a description describes, with first weights drawn from torch's generator."""
    return HistoryTower(spec, contract) if spec.kind is TowerKind.HISTORY else EmbeddingTower(spec, contract)
