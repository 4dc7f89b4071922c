"""Which tower it is: a name and a digest that stay while it does, whatever ids join those that it was made with."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from recsys.errors import DataError
from recsys.files import fingerprint_of
from recsys.towers.artifact import TowerArtifact

_VERSION = "version"
_TABLES = "ebc.embedding_bags."  # in the names of a tower's tables


@dataclass(frozen=True)
class TowerVersion:
    """A tower as it was when it was new.

    Rows that were appended since, for ids that it was not made with, are no part of it.

    Attributes:
        version: its name, made of all the others.
        digest: of its layers and of its tables' first `rows`, by the bits.
        rows: how many, by the table's name in the tower's `state_dict()`.
        parent: the version that training made it from; empty for a tower that was pre-trained or imported.
    """

    version: str
    digest: str
    rows: Mapping[str, int]
    parent: str

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], parent: str = "") -> "TowerVersion":
        """Name a tower that is new: all its rows are its own.

        Args:
            weights: its `state_dict()`; tables are (rows, D).
        """
        rows = {name: len(weight) for name, weight in weights.items() if _TABLES in name}
        digest = _digest(weights, rows)
        return cls(fingerprint_of([digest, rows, parent]), digest, rows, parent)

    def after(self, weights: Mapping[str, Tensor]) -> "TowerVersion":
        """Return what a tower is after training that began with this one: this one itself where no bit has changed.

        Args:
            weights: as for `of`; tables of (rows, D) may have more rows.
        """
        return self if self.is_in(weights) else TowerVersion.of(weights, parent=self.version)

    def is_in(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether a tower's weights, its tables (rows, D), still are this version's, but for appended rows."""
        return _digest(weights, self.rows) == self.digest

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `from_document` reads back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "TowerVersion":
        """Read `to_document`'s values.

        Raises:
            DataError: a key is missing or unknown.
        """
        try:
            return cls(**document)
        except TypeError as error:
            raise DataError(f"This is no tower's version ({error}). Make the tower again.") from error


def version_of(artifact: TowerArtifact) -> TowerVersion:
    """Return the version that an artifact says that it is, or name it as one that is new."""
    document = artifact.provenance.get(_VERSION)
    return TowerVersion.of(artifact.weights) if document is None else TowerVersion.from_document(document)


def with_version(artifact: TowerArtifact, version: TowerVersion) -> TowerArtifact:
    """Return the artifact with the version in its provenance."""
    provenance = {**artifact.provenance, _VERSION: version.to_document()}
    return TowerArtifact(artifact.spec, artifact.weights, provenance)


def _digest(weights: Mapping[str, Tensor], rows: Mapping[str, int]) -> str:
    # Names, types and shapes are in the bytes, whose order follows from them.
    parts = {name: weight[: rows[name]] if name in rows else weight for name, weight in weights.items()}
    own = {name: weight.detach().cpu().contiguous() for name, weight in parts.items()}
    return hashlib.sha256(safetensors.torch.save(own)).hexdigest()[:16]
