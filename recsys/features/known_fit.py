"""What an earlier fit knows already, for rows whose ids and numbers must mean the same to weights that have learnt."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from recsys.errors import DataError
from recsys.features.contract import Scaling
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary
from recsys.files import fingerprint_of


@dataclass(frozen=True)
class KnownFit:
    """Vocabularies by table and scaling by dense feature, as an earlier model was trained under them.

    A known id keeps its row whether or not it comes up again, and a known feature its centre and spread: a table row or
    a weight of that model stands for what it stood for. What is new to a table is appended.
    """

    vocabularies: Mapping[str, Vocabulary]
    scaling: Mapping[str, Scaling]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; they change where any id, its row or any scaling does."""
        vocabularies = {table: vocabulary.fingerprint for table, vocabulary in self.vocabularies.items()}
        return fingerprint_of([vocabularies, {name: asdict(scaling) for name, scaling in self.scaling.items()}])

    def grown(self, fitted: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
        """Return each fitted table's vocabulary: the known ids in their rows, then the others as they were fitted.

        Raises:
            DataError: the ids of a table are of another type than those known.

        >>> known = KnownFit({"item": Vocabulary.of("item", ["lamp", "mug"])}, {})
        >>> known.grown({"item": Vocabulary.of("item", ["teapot", "mug", "bowl"])})["item"].ids.to_pylist()
        ['lamp', 'mug', 'teapot', 'bowl']
        """
        return {table: self._grown(table, vocabulary) for table, vocabulary in fitted.items()}

    def kept(self, fitted: Mapping[str, Scaling]) -> dict[str, Scaling]:
        """Return each fitted feature's scaling: the known one where there is one."""
        return {name: self.scaling.get(name, scaling) for name, scaling in fitted.items()}

    def _grown(self, table: str, fitted: Vocabulary) -> Vocabulary:
        known = self.vocabularies.get(table)
        # A table without any id has no type to speak of.
        if known is None or not len(known.ids):
            return fitted
        if not len(fitted.ids):
            return known
        if known.ids.type != fitted.ids.type:
            raise DataError(
                f"The ids of table `{table}` are {fitted.ids.type}, and those that the earlier model knows are "
                f"{known.ids.type}: none of them would be found again. Bring the column back to the type that it had, "
                "or start from scratch (`daily.start=scratch`)."
            )
        is_new = pa.array(np.equal(known.rows_of(fitted.ids), UNKNOWN_ROW))
        return Vocabulary(table, pa.concat_arrays([known.ids, fitted.ids.filter(is_new)]))
