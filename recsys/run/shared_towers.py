"""A tower by the folder that it lies in: an artifact of its own, or the one that a finished run's model holds."""

from dataclasses import dataclass
from pathlib import Path

from recsys.artifacts.export import load_saved
from recsys.artifacts.pretrained_tower import DESCRIPTION, StoredTower, read_tower, require_features, used_part
from recsys.errors import DataError, UsageError
from recsys.features.contract import FeatureContract, contract_tags
from recsys.run.serving import MODEL, TOWER_VERSION
from recsys.towers.artifact import TowerArtifact
from recsys.towers.tower_spec import TowerKind, TowerSpec
from recsys.towers.version import TowerVersion, version_of, with_version
from recsys.training.modes import TOWER

_TOWER_FOLDER = "tower"


@dataclass(frozen=True)
class SharedTower:
    """A tower that is to be compared, and what it was found by.

    Attributes:
        path: as it was given, for messages.
    """

    path: Path
    stored: StoredTower

    @property
    def spec(self) -> TowerSpec:
        """What it is built from."""
        return self.stored.artifact.spec

    @property
    def version(self) -> TowerVersion:
        """Which tower it is; one whose artifact does not say so is named anew."""
        return version_of(self.stored.artifact)


def open_shared(path: Path) -> SharedTower:
    """Open the tower in a folder that `recsys pretrain` or `recsys train` printed.

    Raises:
        DataError: there is none, or a file is missing, torn or changed.
        UsageError: it is a tower that gives rows, and no single item, vectors.
    """
    for folder in (path, path / _TOWER_FOLDER):
        if (folder / DESCRIPTION).is_file():
            tower = SharedTower(path, read_tower(folder))
            break
    else:
        if not (path / MODEL).is_dir():
            raise DataError(
                f"There is no tower at {path}: expected a folder with {DESCRIPTION}, as `recsys pretrain` makes them "
                f"below `runtime.towers`, or the folder of a finished run, with its `{MODEL}`."
            )
        tower = SharedTower(path, _of_model(path / MODEL))
    if tower.spec.kind is TowerKind.HISTORY:
        raise UsageError(
            f"The tower at {path} reads histories: it gives a row numbers, and no user and no item a vector that could "
            "be mapped. Compare towers of kind two_tower, imported or sequence."
        )
    return tower


def require_readable(tower: SharedTower, contract: FeatureContract) -> None:
    """Refuse a tower that reads other features, or the same ones scaled otherwise, than data have.

    Its vocabularies may differ: ids are translated.

    Raises:
        DataError: names what differs.
    """
    what = f"The tower at {tower.path}"
    require_features(tower.spec, contract, what)
    for part, value in contract_tags(used_part(contract, tower.spec)).items():
        if part in ("schema", "scaling") and (found := tower.stored.tags.get(part)) != value:
            raise DataError(
                f"{what} was made with {part} {found}, and the run's data have {part} {value} for what it reads: its "
                "inputs would mean something else. Make it from data of the same schema, prepared with the fit that "
                "the run's data have, as `recsys daily` prepares them."
            )


def _of_model(folder: Path) -> StoredTower:
    """The tower of a served model, with the vocabularies of its tables."""
    saved = load_saved(folder)
    weights = {
        name.removeprefix(f"{TOWER}."): each for name, each in saved.weights.items() if name.startswith(f"{TOWER}.")
    }
    artifact = TowerArtifact(TowerSpec.from_document(saved.description["tower"]), weights, {"model": saved.digest})
    document = saved.description.get(TOWER_VERSION)
    version = version_of(artifact) if document is None else TowerVersion.from_document(document)
    used = used_part(saved.contract, artifact.spec)
    vocabularies = {table: saved.vocabularies[table] for table in used.vocabulary_fingerprints}
    return StoredTower(with_version(artifact, version), contract_tags(used), vocabularies)
