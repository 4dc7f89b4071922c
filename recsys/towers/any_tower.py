"""Any of the towers, from its description."""

from recsys.features.contract import FeatureContract
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.history import HistoryTower
from recsys.towers.sequence import SequenceTower
from recsys.towers.tower_spec import TowerKind, TowerSpec
from recsys.towers.two_sided import TwoSidedTower

Tower = TwoSidedTower | HistoryTower


def build_tower(spec: TowerSpec, contract: FeatureContract) -> Tower:
    """Return the tower that a description describes, with first weights drawn from torch's generator."""
    if spec.kind is TowerKind.HISTORY:
        return HistoryTower(spec, contract)
    return SequenceTower(spec, contract) if spec.kind is TowerKind.SEQUENCE else EmbeddingTower(spec, contract)
