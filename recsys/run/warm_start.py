"""A warm start: a run that goes on from the weights of a served model, for rows among which there are new ids.

Known ids keep their table rows to the bit, and dense features their scaling: before its first step such a ranker
answers as the model did. A new id begins as what the model took it for until now, which is the unknown row. Where the
tower was made of imported vectors, a new item's row comes from its own vector instead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.artifacts.export import load_saved
from recsys.build import as_described_now, build_spec, describe_ranker
from recsys.build_objective import ORDINAL
from recsys.config import ImportedTowerConfig, RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError, UsageError
from recsys.features.known_fit import KnownFit
from recsys.features.schema import FeatureSchema
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.files import canonical_json
from recsys.run.serving import TOWER_VERSION
from recsys.towers.artifact import TowerArtifact
from recsys.towers.imported import with_imported_rows
from recsys.towers.tower_spec import TowerSpec, table_weight
from recsys.towers.version import TowerVersion, with_version
from recsys.training.modes import TOWER

_TOWER_WEIGHTS = f"{TOWER}."
_TABLE = ".embedding_bags."
_OR_SCRATCH = "Or start from scratch: `daily.start=scratch`."


class WarmStart:
    """The weights that a run starts from, and what they stand for.

    Attributes:
        model: the `model` folder of a run that finished.

    Raises:
        DataError: there is no served model, or a file of it is missing, torn or changed.
    """

    def __init__(self, model: Path) -> None:
        self.model, self._saved = model, load_saved(model)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name the model: all that a run takes from it follows from them."""
        return self._saved.digest

    @property
    def known_fit(self) -> KnownFit:
        """What the rows must be prepared with, so that ids and numbers mean the same to the weights."""
        return KnownFit(self._saved.vocabularies, self._saved.contract.scaling)

    @property
    def tower_version(self) -> TowerVersion:
        """Which tower the model holds."""
        document = self._saved.description.get(TOWER_VERSION)
        return TowerVersion.of(self._tower_weights()) if document is None else TowerVersion.from_document(document)

    def settled(self, config: RunConfig) -> RunConfig:
        """Return the configuration of a run that starts here: its share of the rates; one epoch, unless set.

        No days are set apart for the tower, which is made already. Tables begin with fresh accumulators: row-wise
        Adagrad's first step moves a row by the whole rate, which is what new ids need.
        """
        training, share = config.training, config.daily.warm_rate
        return replace(
            config,
            training=replace(
                training,
                epochs=training.epochs or 1,
                learning_rate=training.learning_rate * share,
                table_learning_rate=training.table_learning_rate * share,
                tower_day_share=0.0,
            ),
        )

    def require_fit(self, config: RunConfig, schema: FeatureSchema) -> None:
        """Refuse a configuration or a schema under which the weights would stand for something else.

        Raises:
            UsageError: names the first setting that differs, and both its values.
        """
        saved = self._saved
        described = as_described_now(saved.description)
        if config.training_mode.rungs or described["rungs"]:
            raise UsageError(
                f"The model {self.model} cannot be started from: a ranker whose segments change the tower each in its "
                "own way (training_mode=by_segment) has rows of its copies for the ids of its own training rows alone, "
                f"and nothing says which new ids are to have some. {_OR_SCRATCH}"
            )
        self._require_equal("the schema", *(_flat_schema(each) for each in (saved.contract.schema, schema)))
        expected = describe_ranker(
            config.network,
            config.composition,
            build_spec(config.tower, schema),
            adapter_rank=config.training_mode.adapter_rank,
            is_ordinal=config.training.objective == ORDINAL,
        )
        found = {key: described.get(key) for key in expected}
        self._require_equal("the ranker", *(_settings(each) for each in (found, expected)))

    def tower(self, config: RunConfig, encoded: EncodedDataset) -> TowerArtifact:
        """Return the model's tower as it was served, with rows for the new ids of `encoded`.

        Raises:
            UsageError: see `require_fit`.
            DataError: the rows were prepared with another fit, or the vectors to import are missing or damaged.
        """
        contract = encoded.contract
        self.require_fit(config, contract.schema)
        self._require_known(encoded)
        spec = TowerSpec.from_document(self._saved.description["tower"])
        weights = self._tower_weights()
        for table, rows in contract.table_rows.items():
            for name in weights:
                if name.endswith(table_weight(table)):
                    weights[name] = _grown(weights[name], rows)
        if isinstance(tower := config.tower, ImportedTowerConfig):
            table = contract.schema.feature(contract.schema.item).table
            weights[table_weight(table)] = with_imported_rows(
                weights[table_weight(table)],
                encoded.vocabulary(table),
                self._saved.contract.table_rows[table],
                tower.vectors,
                id_column=tower.id_column,
                vector_column=tower.vector_column,
            )
        provenance = {"made_by": "the tower of a served model, with rows for new ids", "model": self.digest}
        return with_version(TowerArtifact(spec, weights, provenance), self.tower_version)

    def load_into(self, ranker: nn.Module, encoded: EncodedDataset) -> None:
        """Put all weights but the tower's, which come with its artifact, into a ranker that is not sharded.

        Raises:
            UsageError: the ranker has other weights.
            DataError: the rows were prepared with another fit.
        """
        self._require_known(encoded)
        own, weights = ranker.state_dict(), dict(self._saved.weights)
        for name in own.keys() & weights.keys():
            if name.startswith(_TOWER_WEIGHTS):
                weights[name] = own[name]
            elif _TABLE in name:
                weights[name] = _grown(weights[name], len(own[name]))
        self._require_equal("weights", _shapes(weights), _shapes(own))
        ranker.load_state_dict(weights)

    def _tower_weights(self) -> dict[str, Tensor]:
        weights = self._saved.weights.items()
        return {name.removeprefix(_TOWER_WEIGHTS): each for name, each in weights if name.startswith(_TOWER_WEIGHTS)}

    def _require_known(self, encoded: EncodedDataset) -> None:
        known, contract = self.known_fit, encoded.contract
        other = [name for name, each in contract.scaling.items() if known.scaling.get(name, each) != each]
        for table, vocabulary in known.vocabularies.items():
            if not encoded.vocabulary(table).ids[: len(vocabulary.ids)].equals(vocabulary.ids):
                other.append(table)
        if other:
            raise DataError(
                f"The rows in {encoded.root} were prepared without what the model {self.model} knows: `{other[0]}` is "
                "encoded otherwise, so the model's weights would stand for other ids or numbers. Prepare them with the "
                f"model's fit. {_OR_SCRATCH}"
            )

    def _require_equal(self, what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        # What kind of thing it is comes first: its other settings follow from that.
        order = sorted(found.keys() | expected.keys(), key=lambda name: (not name.endswith((".name", ".kind")), name))
        pairs = {name: (_text(found, name), _text(expected, name)) for name in order}
        for name, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise UsageError(
                    f"The model {self.model} cannot be started from: in {what}, `{name}` is {theirs} there and {ours} "
                    f"in this run. Set it as it was there. {_OR_SCRATCH}"
                )


def _grown(table: Tensor, rows: int) -> Tensor:
    """Return a table with so many rows, its own first; what a new id was to the model until now is the unknown row."""
    return torch.cat([table, table[UNKNOWN_ROW].expand(max(0, rows - len(table)), -1)])


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(weight.shape) for name, weight in weights.items()}


def _flat(document: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no object, under the keys that lead to it: ("network.layers", 3)."""
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A ranker's description under the names of the settings that it comes from."""
    others = {key: value for key, value in description.items() if key not in ("adapter_rank", "is_ordinal")}
    mode = {"adapter_rank": description["adapter_rank"]}
    training = {"objective": ORDINAL if description["is_ordinal"] else f"not {ORDINAL}"}
    return dict(_flat(others | {"training_mode": mode, "training": training}))


def _flat_schema(schema: FeatureSchema) -> dict[str, Any]:
    document = schema.to_document()
    features = {each["name"]: each for each in document.pop("features")}
    # The order in which they stand is that of the columns of a batch.
    return dict(_flat(document | {"features": features})) | {"the order of features": list(features)}


def _text(values: Mapping[str, Any], name: str) -> str:
    # As JSON, in which a model's description was written: a tuple is a list there.
    return canonical_json(values[name]) if name in values else "absent"
