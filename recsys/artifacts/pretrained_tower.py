"""A pre-trained tower on disk: weights, vocabularies, the contract that it was made under, and where it came from.

    <tower>/tower.json                  description, contract tags, digest of the weights, provenance
    <tower>/weights.safetensors         tables and dense parameters, by the names of the plain module's state
    <tower>/vocabulary/<table>.parquet  which id owns which row of which table

A tower that was made under another contract is refused: its rows would stand for other ids.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.errors import DataError
from recsys.features.contract import FeatureContract, contract_tags, require_same_contract, vocabulary_tag
from recsys.features.vocabulary import Vocabulary
from recsys.files import published_directory, sha256_of_file
from recsys.towers.artifact import TowerArtifact
from recsys.towers.tower_spec import TowerSpec

DESCRIPTION, WEIGHTS, VOCABULARY = "tower.json", "weights.safetensors", "vocabulary"


def save_tower(
    path: Path, artifact: TowerArtifact, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]
) -> None:
    """Write the tower's folder, whole or not at all.

    Args:
        contract: that of the data which the tower was made from.
        vocabularies: by table; of at least the tables that the tower uses.

    Raises:
        CannotWriteError: the place cannot be written.
    """
    used = used_part(contract, artifact.spec)
    with published_directory(path) as work:
        save_file({name: value.contiguous() for name, value in artifact.weights.items()}, work / WEIGHTS)
        (work / VOCABULARY).mkdir()
        for table in used.vocabulary_fingerprints:
            vocabularies[table].save(work / VOCABULARY / f"{table}.parquet")
        description = {
            "spec": artifact.spec.to_document(),
            "contract": contract_tags(used),
            "weights_sha256": sha256_of_file(work / WEIGHTS),
            "provenance": dict(artifact.provenance),
        }
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (work / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class StoredTower:
    """A tower as it lies on disk, whatever data it is to be used with.

    Attributes:
        tags: of the contract that it was made under, cut down to what it reads; see `used_part`.
        vocabularies: by table.
    """

    artifact: TowerArtifact
    tags: Mapping[str, str]
    vocabularies: Mapping[str, Vocabulary]


def read_tower(path: Path) -> StoredTower:
    """Read a tower with its own vocabularies, for data that may have others.

    Raises:
        DataError: there is no whole tower at `path`, or a file changed since it was written.
    """
    spec, tags, digest, provenance = _described(path)
    vocabularies = {file.stem: Vocabulary.load(file) for file in sorted((path / VOCABULARY).glob("*.parquet"))}
    found = {vocabulary_tag(table): vocabulary.fingerprint for table, vocabulary in vocabularies.items()}
    if differing := [tag for tag in tags.keys() | found.keys() if "`" in tag and tags.get(tag) != found.get(tag)]:
        tag = min(differing)
        raise DataError(
            f"Pre-trained tower {path}: the {tag} has fingerprint {found.get(tag, '(absent)')}, and {DESCRIPTION} "
            f"names {tags.get(tag, '(none)')}: rows would stand for other ids. Copy the tower again, or make it again."
        )
    artifact = TowerArtifact(spec, _read_weights(path / WEIGHTS, digest), provenance)
    return StoredTower(artifact, tags, vocabularies)


def load_tower(path: Path, contract: FeatureContract) -> TowerArtifact:
    """Read a tower for data under `contract`.

    Only what the tower reads must agree: its features' declarations, their vocabularies and scaling. The weights are
    checked against their digest before they are read.

    Raises:
        DataError: there is no whole tower at `path`, a file changed since it was written, or the tower was made under
            another contract; the message names the part.
    """
    spec, tags, digest, provenance = _described(path)
    require_features(spec, contract, f"Pre-trained tower {path}")
    require_same_contract(used_part(contract, spec), tags, f"Pre-trained tower {path}")
    return TowerArtifact(spec, _read_weights(path / WEIGHTS, digest), provenance)


def require_features(spec: TowerSpec, contract: FeatureContract, what: str) -> None:
    """Refuse a tower that reads a feature which the schema does not declare.

    Raises:
        DataError: names the first one.
    """
    known = {feature.name for feature in contract.schema.features}
    if missing := [name for name in spec.user_features + spec.item_features if name not in known]:
        raise DataError(
            f"{what} reads the feature `{missing[0]}`, which the schema `{contract.schema.name}` "
            "does not declare. Use the data that it was made with, or make it again from this data."
        )


def used_part(contract: FeatureContract, spec: TowerSpec) -> FeatureContract:
    """Return the contract cut down to the features that the tower reads, so that only they must agree."""
    # A schema that gains a feature for the interaction network leaves every tower usable.
    names = spec.user_features + spec.item_features
    features = tuple(feature for feature in contract.schema.features if feature.name in names)
    tables = {feature.table for feature in features if feature.table}
    return replace(
        contract,
        schema=replace(contract.schema, features=features),
        table_rows={table: rows for table, rows in contract.table_rows.items() if table in tables},
        vocabulary_fingerprints={t: v for t, v in contract.vocabulary_fingerprints.items() if t in tables},
        scaling={name: scaling for name, scaling in contract.scaling.items() if name in names},
    )


def _described(path: Path) -> tuple[TowerSpec, dict[str, str], str, dict[str, Any]]:
    """The tower's description, the tags of its contract, the digest of its weights, and its provenance."""
    description = _read_description(path)
    try:
        spec = TowerSpec.from_document(description["spec"])
        tags, digest, provenance = (description[key] for key in ("contract", "weights_sha256", "provenance"))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path / DESCRIPTION} lacks the key {error}. Pre-train or import the tower again.") from error
    return spec, tags, digest, provenance


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"There is no pre-trained tower at {path}: {DESCRIPTION} is missing. Make one with `recsys pretrain`."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path / DESCRIPTION} cannot be read: {error}. Make the tower again.") from error
    if not isinstance(description, dict):
        raise DataError(f"{path / DESCRIPTION} holds {type(description).__name__}; expected an object. Make it again.")
    return description


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path} is missing, so the tower is not whole. Pre-train or import it again.")
    if (found := sha256_of_file(path)) != digest:
        raise DataError(
            f"sha256 mismatch in {path}: found {found}, expected {digest}. The file changed since it was written: "
            f"remove the folder {path.parent}, and pre-train or import the tower again."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is no safetensors file ({error}). Pre-train or import the tower again.") from error
