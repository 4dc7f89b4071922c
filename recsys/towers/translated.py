"""A tower under another vocabulary: each id keeps its row's numbers, wherever the row lies now."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from recsys.errors import DataError
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary
from recsys.towers.artifact import TowerArtifact
from recsys.towers.tower_spec import table_weight

Bools = npt.NDArray[np.bool_]


def translated(
    artifact: TowerArtifact, own: Mapping[str, Vocabulary], wanted: Mapping[str, Vocabulary]
) -> tuple[TowerArtifact, dict[str, Bools]]:
    """Return the tower with the rows of its tables in the order of other vocabularies.

    An id that the tower does not know gets its unknown row, as in a row of its own data.

    Args:
        own: the vocabularies that the tower was made with, by table; wanted: those to bring it under.

    Returns:
        The tower, and of each of its tables which rows are of ids that it knows, (rows of the wanted table,).

    Raises:
        DataError: a table is wanted under no vocabulary, or its ids are of another type.
    """
    weights, known = dict(artifact.weights), {}
    for table, vocabulary in own.items():
        names = [name for name in weights if name.endswith(table_weight(table))]
        if names and table not in wanted:
            raise DataError(
                f"The tower has a table `{table}`, and these data have none of that name; theirs are "
                f"{', '.join(sorted(wanted))}. Compare towers of the same schema."
            )
        if not names:
            continue
        rows = np.concatenate([[UNKNOWN_ROW], vocabulary.rows_of(wanted[table].ids)])
        known[table] = rows != UNKNOWN_ROW
        for name in names:
            weights[name] = weights[name].index_select(0, torch.from_numpy(rows))
    return TowerArtifact(artifact.spec, weights, artifact.provenance), known
