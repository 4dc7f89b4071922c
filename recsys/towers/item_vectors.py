"""The vectors that a tower has of the items of some rows: what those who share the tower read of it."""

from torch import Tensor

from recsys.features.batch import Batch
from recsys.towers.any_tower import Tower
from recsys.towers.history import HistoryTower

ITEM = "item"
"""The one space of a tower that gives an item a vector."""


def item_vectors(tower: Tower, batch: Batch, item: str) -> dict[str, Tensor]:
    """Return the vectors of the rows' items, (B, D) by the name of their space, without a graph.

    Of a tower with an item side they are that side's output. A history tower gives an item no vector of its own: there
    they are the item's rows in the tables of each source that learns, as they are.

    Args:
        item: name of the schema's item.
    """
    if not isinstance(tower, HistoryTower):
        return {ITEM: tower.side_vectors(batch)[-1]}
    sources = tower.look_up(batch)
    return {
        name: of_feature[item].detach()
        for name, of_feature in sources.items()
        if item in of_feature and not getattr(tower.sources[name], "stays_frozen", False)
    }
