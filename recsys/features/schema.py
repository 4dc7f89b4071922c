"""What columns a row has, what each may hold, and which part of the model reads it.

A schema is declared in YAML (`data/schemas/`), one file per source. Everything fitted to data (vocabulary, scaling)
is kept apart, in `contract.py`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from recsys.all_segments import ALL
from recsys.errors import UsageError, did_you_mean
from recsys.features.column_names import ROLES, require_distinct_names
from recsys.features.declared_keys import finite_number, require_keys, require_text, require_word, shown
from recsys.features.plain_yaml import read_plain_yaml
from recsys.features.policy import (
    FOR_IDS,
    FOR_LISTS,
    FOR_NUMBERS,
    FOR_ROLES,
    Policy,
    dropped_share_from,
    policies_from,
)
from recsys.features.vectors import for_elements, vector_element, with_vectors_spread
from recsys.files import fingerprint_of

USER_TOWER, ITEM_TOWER, INTERACTION_NETWORK = "user_tower", "item_tower", "interaction_network"
PARTS = (USER_TOWER, ITEM_TOWER, INTERACTION_NETWORK)

EXTRA_COLUMNS = {
    "user_key": "one number per user over all splits, unseen users included",
    "query": "the list of candidates that a row is ranked in",
    "log_sampling_rate": "log of the weight by which a row's item is drawn as a negative",
    "is_new_to_user": "1 where the user never had the item before",
    "true_probability": "the simulated probability of a positive label",
}
"""Encoded columns beside the schema's own that a source may know, and what each means; evaluation alone reads them."""

EXTRA_TYPES = {
    "user_key": "int64",
    "query": "int64",
    "log_sampling_rate": "float32",
    "is_new_to_user": "int8",
    "true_probability": "float32",
}
"""The type of each of `EXTRA_COLUMNS`, by the name that Arrow and DuckDB both know."""

RESERVED_COLUMNS = (*ROLES, "split", "day", *EXTRA_COLUMNS)
"""Columns that encoded rows have beside the features, whatever the raw columns behind them are called."""


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
        invalid: column -> what becomes of a value that is ruled out. A column that is not named stops at it, but for
            raw ids that are missing or cannot be ids, which get the unknown row.
        most_dropped: the share of the rows that `invalid` may drop before the data count as broken.
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
    invalid: Mapping[str, Policy] = field(default_factory=dict, hash=False)
    most_dropped: float = 0.0

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
        # Left out where nothing is declared, so that a schema's fingerprint does not hang on what it does not use.
        document = {key: value for key, value in document.items() if value or key not in ("invalid", "most_dropped")}
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
        require_keys(document, cls, where)
        for key in ("name", "segment", "label", "time", "user", "item", "weight"):
            if key != "weight" or document.get("weight") is not None:
                require_text(document[key], key, where)
        entries, segments = document["features"], document["segments"]
        if not isinstance(entries, list) or not entries:
            raise UsageError(f"{where}: `features` is {shown(entries)}; expected a list with at least one feature.")
        # YAML reads a bare `no` as a truth value and a bare 1 as a number: both would stand for other names.
        if not isinstance(segments, list) or not segments or not all(isinstance(value, str) for value in segments):
            raise UsageError(
                f"{where}: `segments` is {shown(segments)}; expected a list of at least one name. Put quotation marks "
                "around a name that reads as a number or as yes or no."
            )
        features = tuple(_feature_from(entry, where) for entry in with_vectors_spread(entries, where))
        schema = cls(**{**document, "features": features, "segments": tuple(segments), "invalid": {}})
        _check(schema, where)
        invalid = policies_from(document.get("invalid", {}), _allowed_policies(schema), where)
        most_dropped = dropped_share_from(document.get("most_dropped", 0), invalid, where)
        return replace(
            schema, invalid=for_elements(invalid, [feature.name for feature in schema.dense]), most_dropped=most_dropped
        )


def load_schema(path: Path) -> FeatureSchema:
    """Read a schema from YAML.

    The file's `table:` block, where it has one, belongs to the reader of the source and is left to it.

    Raises:
        UsageError: the file is missing or no YAML, or a key, kind or part in it is unknown.
    """
    document = read_plain_yaml(path, "Schema file")
    document.pop("table", None)
    return FeatureSchema.from_document(document, f"Schema file {path}")


def _allowed_policies(schema: FeatureSchema) -> dict[str, tuple[Policy, ...]]:
    """Every column that may stand under `invalid`: a vector by its own name or by its elements'."""
    kinds = {FeatureKind.DENSE: FOR_NUMBERS, FeatureKind.SPARSE: FOR_IDS, FeatureKind.SPARSE_LIST: FOR_LISTS}
    allowed = {feature.name: kinds[feature.kind] for feature in schema.features}
    vectors = filter(None, (vector_element(feature.name) for feature in schema.dense))
    roles = filter(None, (schema.segment, schema.label, schema.weight, schema.time))
    return {**dict.fromkeys(roles, FOR_ROLES), **allowed, **{column: FOR_NUMBERS for column, _ in vectors}}


def _feature_from(entry: Any, where: str) -> Feature:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: a feature is {shown(entry)}; expected keys such as `name:` and `kind:`.")
    require_keys(entry, Feature, f"{where}, feature `{entry.get('name', '?')}`")
    require_text(entry["name"], "name", f"{where}, a feature")
    where = f"{where}, feature `{entry['name']}`"
    require_word(entry["kind"], "kind", FeatureKind, where)
    require_word(entry.get("scale", Scale.STANDARD), "scale", Scale, where)
    used_by = entry["used_by"]
    if not isinstance(used_by, list) or not used_by or (strange := [part for part in used_by if part not in PARTS]):
        hint = did_you_mean(strange[0], PARTS) if isinstance(used_by, list) and used_by else ""
        raise UsageError(f"{where}: used_by is {shown(used_by)}{hint}; expected a list of some of {', '.join(PARTS)}.")
    kind = FeatureKind(entry["kind"])
    common = {"name": entry["name"], "kind": kind, "used_by": tuple(used_by)}
    declared = {key: value for key, value in entry.items() if key not in common}
    return Feature(**common, **(_dense_keys if kind is FeatureKind.DENSE else _sparse_keys)(declared, entry, where))


def _dense_keys(declared: dict[str, Any], entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    # A written schema names every key, those of the other kinds by their defaults.
    if declared.pop("table", "") or declared.pop("max_length", 0):
        raise UsageError(f"{where}: `table` and `max_length` belong to sparse features, and this one is dense.")
    minimum = finite_number(declared.get("minimum"), "minimum", -math.inf, where)
    maximum = finite_number(declared.get("maximum"), "maximum", math.inf, where)
    fill = finite_number(declared.get("fill"), "fill", math.nan, where)
    if minimum > maximum:
        raise UsageError(f"{where}: minimum {minimum:g} is above maximum {maximum:g}; no value could be allowed.")
    if not math.isnan(fill) and not minimum <= fill <= maximum:
        raise UsageError(f"{where}: fill is {fill:g}; expected a value from {minimum:g} to {maximum:g}, as declared.")
    scale = Scale(declared.get("scale", Scale.STANDARD))
    return {"minimum": minimum, "maximum": maximum, "fill": None if math.isnan(fill) else fill, "scale": scale}


def _sparse_keys(declared: dict[str, Any], entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    defaults = {"minimum": None, "maximum": None, "fill": None, "scale": Scale.STANDARD}
    if unread := [key for key, default in defaults.items() if declared.get(key, default) != default]:
        raise UsageError(f"{where}: `{unread[0]}` belongs to dense features, and this one is {entry['kind']}.")
    table, max_length = declared.get("table") or entry["name"], declared.get("max_length", 0)
    # The table's name becomes a file's name and a module's.
    if not isinstance(table, str) or not re.fullmatch(r"[\w-]+", table):
        raise UsageError(
            f"{where}: its embedding table is named {shown(table)}; expected letters, digits, `_` and `-` alone. Give "
            "the feature such a name under `table:`."
        )
    is_count = isinstance(max_length, int) and not isinstance(max_length, bool) and max_length >= 0
    if not is_count or (max_length > 0) != (entry["kind"] == FeatureKind.SPARSE_LIST):
        raise UsageError(
            f"{where}: max_length is {shown(max_length)}; expected a whole number from 1 for a sparse_list, and no "
            "such key for other kinds."
        )
    return {"table": table, "max_length": max_length}


def _check(schema: FeatureSchema, where: str) -> None:
    names = [feature.name for feature in schema.features]
    roles = {role: name for role in ROLES if (name := getattr(schema, role)) is not None}
    require_distinct_names(names, roles, RESERVED_COLUMNS, where)
    if schema.label in names:
        raise UsageError(f"{where}: the label `{schema.label}` is declared as a feature, which would leak the answer.")
    if schema.time in names:
        raise UsageError(
            f"{where}: the time `{schema.time}` is declared as a feature as well, and would be two columns of one "
            f"name. Name the feature otherwise, such as `{schema.time}_seconds`, and say under `table.columns` which "
            "column of the files it is."
        )
    for role, kind in (("segment", FeatureKind.SPARSE), ("weight", FeatureKind.DENSE)):
        if roles.get(role) in names and schema.feature(roles[role]).kind is not kind:
            raise UsageError(
                f"{where}: `{roles[role]}` is the {role} and a feature of kind {schema.feature(roles[role]).kind}; one "
                f"column can be both where the feature is {kind}. Name the {role} otherwise, such as "
                f"`{roles[role]}_{role}`, and say in the `table:` block which column of the files it is."
            )
    if len(set(roles.values())) < len(roles):
        raise UsageError(
            f"{where}: `segment`, `label`, `time` and `weight` must be different columns, and they are "
            f"{', '.join(roles.values())}."
        )
    if repeated := sorted({name for name in schema.segments if schema.segments.count(name) > 1}):
        raise UsageError(f"{where}: the segment `{repeated[0]}` stands twice in `segments`; each name stands once.")
    if ALL in schema.segments:
        raise UsageError(
            f"{where}: a segment is named `{ALL}`, which in scores and charts stands for the rows of all "
            "segments together. Give it another name, such as everybody."
        )
    sparse = [feature.name for feature in schema.sparse if feature.kind is FeatureKind.SPARSE]
    for role in ("user", "item"):
        name = getattr(schema, role)
        if name not in sparse:
            raise UsageError(
                f"{where}: `{role}: {name}` must name a feature of kind sparse{did_you_mean(name, sparse)}."
            )
    if schema.user == schema.item:
        raise UsageError(f"{where}: `user` and `item` are both `{schema.user}`; expected two features.")
