"""Rankers made of a pre-trained embedding tower and an interaction network: trained, frozen, routed, compared.

    data = recsys.prepare(frame, schema="shop.yaml")
    run = recsys.train(data, composition="conditional", mode="frozen_tower")
    study = recsys.ablate(data, grid={"training_mode": ["end_to_end", "frozen_tower"]}, seeds=3)

These few names are for who writes Python, and `recsys/api.py` holds them; the command line is `pipelines/`. The rooms
below are described in their own `__init__.py`. Nothing heavy is imported before a function is called.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.api import (
        Data,
        Run,
        Schema,
        Study,
        Tower,
        ablate,
        prepare,
        pretrain,
        register_composition,
        register_network,
        train,
    )

__all__ = [
    "Data",
    "Run",
    "Schema",
    "Study",
    "Tower",
    "ablate",
    "prepare",
    "pretrain",
    "register_composition",
    "register_network",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        from recsys.errors import did_you_mean

        has = f"it has {', '.join(__all__)}"
        raise AttributeError(f"module 'recsys' has no attribute {name!r}{did_you_mean(name, __all__)}; {has}")
    from recsys import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
