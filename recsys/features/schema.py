"""What columns a row has, what each may hold, and which part of the model reads it.

A schema is declared in YAML (`data/schemas/`), one file per source. Everything fitted to data (vocabulary, scaling)
is kept apart, in `contract.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import UsageError
from recsys.files import fingerprint_of

USER_TOWER, ITEM_TOWER, INTERACTION_NETWORK = "user_tower", "item_tower", "interaction_network"
PARTS = (USER_TOWER, ITEM_TOWER, INTERACTION_NETWORK)


class FeatureKind(StrEnum):
    """How a column becomes a field of the model."""

    DENSE = "dense"
    SPARSE = "sparse"
    SPARSE_LIST = "sparse_list"


class Scale(StrEnum):
    """How a dense value is brought to unit spread; `log` takes sign(x) log(1 + |x|) first."""

    STANDARD = "standard"
    LOG = "log"
    NONE = "none"


@dataclass(frozen=True)
class Feature:
    """One column.

    Attributes:
        used_by: the parts that read it, of `PARTS`.
        table: sparse kinds: the embedding table and vocabulary; two features may share one. Empty for dense features.
        max_length: sparse lists: a longer list keeps its last `max_length` ids. 0 for other kinds.
        minimum, maximum: dense: the allowed raw range; a value outside it stops the preparation.
        fill: dense: what stands in for null and NaN; None stops the preparation.
        scale: dense: one of `Scale`.
    """

    name: str
    kind: FeatureKind
    used_by: tuple[str, ...]
    table: str = ""
    max_length: int = 0
    minimum: float = -math.inf
    maximum: float = math.inf
    fill: float | None = None
    scale: Scale = Scale.STANDARD


@dataclass(frozen=True)
class FeatureSchema:
    """The columns of one source's rows.

    Attributes:
        segment: the column of user segments; `segments` are its values, encoded as their position.
        weight: the column of row weights, or None where every row counts once.
        time: the column of event times (UTC).
        user, item: the sparse features that name the row's user and item.
    """

    name: str
    features: tuple[Feature, ...]
    segment: str
    segments: tuple[str, ...]
    label: str
    time: str
    user: str
    item: str
    weight: str | None = None

    @cached_property
    def dense(self) -> tuple[Feature, ...]:
        """Dense features in the order of `Batch.dense`."""
        return tuple(feature for feature in self.features if feature.kind is FeatureKind.DENSE)

    @cached_property
    def sparse(self) -> tuple[Feature, ...]:
        """Sparse and sparse-list features in the order of `Batch.sparse`."""
        return tuple(feature for feature in self.features if feature.kind is not FeatureKind.DENSE)

    @cached_property
    def tables(self) -> dict[str, tuple[Feature, ...]]:
        """Each embedding table with the features that look it up."""
        names = dict.fromkeys(feature.table for feature in self.sparse)
        return {name: tuple(feature for feature in self.sparse if feature.table == name) for name in names}

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; they change with any declared value."""
        return fingerprint_of(self.to_document())

    def used_by(self, part: str) -> tuple[Feature, ...]:
        """Features that one of `PARTS` reads, in declared order."""
        return tuple(feature for feature in self.features if part in feature.used_by)

    def feature(self, name: str) -> Feature:
        """The feature of that name; KeyError where there is none."""
        return {feature.name: feature for feature in self.features}[name]

    def to_document(self) -> dict[str, Any]:
        """Return plain values that `from_document` reads back; infinite bounds are left out, as JSON has none."""
        document = asdict(self)
        document["segments"] = list(self.segments)
        document["features"] = [
            {
                key: list(value) if key == "used_by" else value
                for key, value in asdict(feature).items()
                if not (isinstance(value, float) and math.isinf(value))
            }
            for feature in self.features
        ]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any], where: str = "the schema") -> "FeatureSchema":
        """Build and check a schema from plain values.

        Raises:
            UsageError: names `where`, the key or feature, what was found and what is allowed.
        """
        _require_keys(document, cls, where)
        entries = document["features"]
        if not isinstance(entries, list) or not entries:
            raise UsageError(f"{where}: `features` is {entries!r}; expected a list with at least one feature.")
        features = tuple(_feature_from(entry, where) for entry in entries)
        schema = cls(**{**document, "features": features, "segments": tuple(map(str, document["segments"]))})
        _check(schema, where)
        return schema


def load_schema(path: Path) -> FeatureSchema:
    """Read a schema from YAML.

    The file's `table:` block, where it has one, belongs to the reader of the source and is left to it.

    Raises:
        UsageError: the file is missing or no YAML, or a key, kind or part in it is unknown.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"Schema file {path} cannot be read: {error}. Examples stand in `data/schemas/`.") from error
    if not isinstance(document, dict):
        raise UsageError(f"Schema file {path} holds {type(document).__name__}; expected keys such as `features:`.")
    document.pop("table", None)
    return FeatureSchema.from_document(document, f"Schema file {path}")


def _require_keys(document: Mapping[str, Any], form: type, where: str) -> None:
    known = {field.name: field for field in fields(form)}
    if unknown := sorted(set(document) - set(known)):
        raise UsageError(f"{where}: unknown key `{unknown[0]}`; expected some of {', '.join(known)}.")
    required = {"features", "segment", "segments", "label", "time", "user", "item", "name", "kind", "used_by"} & set(
        known
    )
    if missing := sorted(required - set(document)):
        raise UsageError(f"{where}: the key `{missing[0]}` is missing; it has no default.")


def _feature_from(entry: Any, where: str) -> Feature:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: a feature is {entry!r}; expected keys such as `name:` and `kind:`.")
    where = f"{where}, feature `{entry.get('name', '?')}`"
    _require_keys(entry, Feature, where)
    kinds, scales = [kind.value for kind in FeatureKind], [scale.value for scale in Scale]
    if entry["kind"] not in kinds:
        raise UsageError(f"{where}: kind is {entry['kind']!r}; expected one of {', '.join(kinds)}.")
    if entry.get("scale", Scale.STANDARD) not in scales:
        raise UsageError(f"{where}: scale is {entry['scale']!r}; expected one of {', '.join(scales)}.")
    used_by = entry["used_by"]
    if not isinstance(used_by, list) or not used_by or not set(used_by) <= set(PARTS):
        raise UsageError(f"{where}: used_by is {used_by!r}; expected a list of some of {', '.join(PARTS)}.")
    values = {**entry, "kind": FeatureKind(entry["kind"]), "used_by": tuple(used_by)}
    if "scale" in entry:
        values["scale"] = Scale(entry["scale"])
    if values["kind"] is FeatureKind.DENSE:
        if values.get("table") or values.get("max_length"):
            raise UsageError(f"{where}: `table` and `max_length` belong to sparse features, and this one is dense.")
    else:
        values["table"] = values.get("table") or values["name"]
        if (values.get("max_length", 0) > 0) != (values["kind"] is FeatureKind.SPARSE_LIST):
            raise UsageError(f"{where}: `max_length` must be positive for a sparse_list, and is for nothing else.")
    return Feature(**values)


def _check(schema: FeatureSchema, where: str) -> None:
    names = [feature.name for feature in schema.features]
    taken = [*names, schema.segment, schema.label, schema.time, *([schema.weight] if schema.weight else [])]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{where}: the feature `{repeated[0]}` is declared twice; each name stands once.")
    if schema.label in names:
        raise UsageError(f"{where}: the label `{schema.label}` is declared as a feature, which would leak the answer.")
    if len(set(taken[len(names) :])) < len(taken) - len(names):
        raise UsageError(f"{where}: `segment`, `label`, `time` and `weight` must be four different columns.")
    if len(set(schema.segments)) < len(schema.segments) or not schema.segments:
        raise UsageError(f"{where}: segments are {list(schema.segments)}; expected at least one, none twice.")
    for role in ("user", "item"):
        name = getattr(schema, role)
        if name not in names or schema.feature(name).kind is not FeatureKind.SPARSE:
            raise UsageError(f"{where}: `{role}: {name}` must name a feature of kind sparse.")
