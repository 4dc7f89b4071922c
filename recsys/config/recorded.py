"""Documents that earlier versions recorded, of runs and of served models, as this version reads them."""

from collections.abc import Mapping
from typing import Any

from recsys.config.compositions import COMPOSITIONS
from recsys.config.kinds import Kinds
from recsys.config.networks import NETWORKS
from recsys.errors import UsageError

# What the configuration of Online Retail said, with the values that its schema file has taken over.
_DECLARED_NOW = {"negatives_per_positive": 4, "ranking_validation_invoices": 300, "seed": 0}

# Settings that came later, by group, with the values that stand for what was done before them.
_CAME_LATER: dict[str, dict[str, Any]] = {
    "training": {
        "largest_batch": 2048,
        "matmul": "highest",
        "table_precision": "float32",
        "table_kernels": dict.fromkeys(("embedding_tower", "interaction_network", "head"), "fused"),
        "table_cache_share": 0.2,
        "compile": False,
        "tower_cache": "always",
        "report_seconds": None,
        "objective": "log_loss",
        "listwise_log_loss": 0.1,
        "table_l2": dict.fromkeys(("embedding_tower", "interaction_network", "head"), 0.0),
        "id_dropout": 0.0,
        "embedding_dropout": 0.0,
        "average_decay": None,
    },
    "training_mode": {"rungs": {}, "max_drift": None},
}

# The same of whole groups of a run's, which was of one process: they say nothing to it.
_GROUPS_THAT_CAME_LATER: dict[str, dict[str, Any]] = {
    "sharding": {
        "types": dict.fromkeys(("embedding_tower", "interaction_network", "head"), ("table_wise", "row_wise")),
        "tables": {},
    },
    "cluster": {
        **dict.fromkeys(("device", "nodes", "devices_per_node", "device_gb", "host_gb")),
        "device_bandwidth": 963,
        "host_bandwidth": 55,
        "host_to_device_bandwidth": 34,
        "in_node_bandwidth": 644,
        "between_nodes_bandwidth": 13,
        "reserved_share": 0.15,
    },
}


def with_own_knobs(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded document whose network, composition and data hold the knobs of their kind and no other.

    Every kind once had the knobs of all, null where they meant nothing; a conditional composition said by `routing`
    which of two it was; there was no first-order path, every field had one width, and a head had no members. Online
    Retail and MovieLens were sources of their own, with sampling among the settings, before their schema files declared
    it. A setting that came later has the value of what was done before. Whatever else the document holds stays as it
    is.

    Raises:
        UnknownKindError: a kind is of a module that cannot be imported.
        UsageError: the rows were sampled in another way than the schema file says now.
    """
    network, composition = dict(document["network"]), dict(document["composition"])
    network = {"first_order": False, "field_widths": {}} | network
    composition.setdefault("members", 1)
    if composition.pop("routing", None) == "route":
        composition["name"] = "conditional_route"
    own = {"network": _own(network, NETWORKS), "composition": _own(composition, COMPOSITIONS)}
    later = {group: added | document[group] for group, added in _CAME_LATER.items() if group in document}
    if (tower := document.get("tower", {})).get("kind") == "imported" and "vectors" in tower:
        # Of a run; what a served model says of its tower names no file.
        later["tower"] = {"missing_vectors": "mean", **tower}
    groups = _GROUPS_THAT_CAME_LATER if "runtime" in document else {}
    return {
        **groups,
        **document,
        **later,
        **own,
        **({"data": _as_table(document["data"])} if "data" in document else {}),
    }


def _own(recorded: dict[str, Any], kinds: Kinds[Any]) -> dict[str, Any]:
    recorded = kinds.imported(recorded)
    knobs = kinds.knobs(recorded.get("name"))
    return {key: value for key, value in recorded.items() if value is not None or key in knobs}


def _as_table(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Data of a declared table, whose sources were once of three kinds."""
    if recorded.get("source") not in ("table", "online_retail", "movielens"):
        return dict(recorded)
    if other := {key: recorded[key] for key, value in _DECLARED_NOW.items() if recorded.get(key, value) != value}:
        found = ", ".join(f"data.{key}={value}" for key, value in other.items())
        raise UsageError(
            f"The run was recorded with {found}, which stands in the schema file now (`table.negatives`, "
            f"`table.ranking`), as {', '.join(str(_DECLARED_NOW[key]) for key in other)}. Declare it in a copy of the "
            "schema, and train anew."
        )
    known = {key: value for key, value in recorded.items() if key not in _DECLARED_NOW}
    dates = dict.fromkeys(("train_start", "validation_start", "test_start", "test_end"))
    engine = {"engine": "duckdb", "spark_master": "local[*]"}
    return {**dates, "ranking_baselines": {}, **engine, **known, "source": "table"}
