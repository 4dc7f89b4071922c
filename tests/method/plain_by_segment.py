"""The tower by segment once more, written by hand: one row at a time, plain tensors, no module and no code of recsys.

A row of a frozen segment gets the tower's vector; one with an adapter that vector and a correction; one of a copied
rung the vector of a tower whose tables are the frozen ones and a difference, or whose layers are the copy's own.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from tests.method.plain_ranker import Parameters, Vector
from tests.small_model import Row

_BASE = "embedding_tower."


def by_segment(
    tower: Callable[[Parameters, Row], Vector], rungs: tuple[str, ...], rows_of: Mapping[str, Mapping[str, Tensor]]
) -> Callable[[Parameters, Row], Vector]:
    """The tower as the rungs of the segments change it.

    Args:
        rows_of: by rung that copies tables, by table, which row of the copy's table an id has.
    """

    def of_row(p: Parameters, row: Row) -> Vector:
        rung = rungs[row.segment]
        frozen = {name: each.detach() if name.startswith(_BASE) else each for name, each in p.items()}
        if rung == "frozen":
            return tower(frozen, row)
        if rung == "adapter":
            vector, name = tower(frozen, row), f"tower_adapters.{row.segment}"
            return vector + p[f"{name}.up.weight"] @ (p[f"{name}.down.weight"] @ vector)
        copied = dict(frozen)
        for name in [each for each in frozen if each.startswith(_BASE)]:
            own = f"tower_copies.{rung}.tower.{name.removeprefix(_BASE)}"
            if ".embedding_bags.tower_" in name and own in p:
                table = name.rpartition(".embedding_bags.tower_")[2].removesuffix(".weight")
                copied[name] = frozen[name] + p[own][rows_of[rung][table].long()]
            elif own in p and rung != "tables":
                copied[name] = p[own]
        return tower(copied, row)

    return of_row
