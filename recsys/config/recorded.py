"""Documents that earlier versions recorded, of runs and of served models, as this version reads them."""

from collections.abc import Mapping
from typing import Any

from recsys.config.compositions import COMPOSITIONS
from recsys.config.kinds import Kinds
from recsys.config.networks import NETWORKS


def with_own_knobs(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded document whose network and composition hold the knobs of their kind and no other.

    Every kind once had the knobs of all, null where they meant nothing; a conditional composition said by `routing`
    which of two it was; and there was no first-order path. Whatever else the document holds stays as it is.

    Raises:
        UsageError: a kind is of a module that cannot be imported.
    """
    network, composition = dict(document["network"]), dict(document["composition"])
    network.setdefault("first_order", False)
    if composition.pop("routing", None) == "route":
        composition["name"] = "conditional_route"
    return {**document, "network": _own(network, NETWORKS), "composition": _own(composition, COMPOSITIONS)}


def _own(recorded: dict[str, Any], kinds: Kinds[Any]) -> dict[str, Any]:
    recorded = kinds.imported(recorded)
    knobs = kinds.knobs(recorded.get("name"))
    return {key: value for key, value in recorded.items() if value is not None or key in knobs}
