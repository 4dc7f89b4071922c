"""Rankers made of a pre-trained embedding tower and an interaction network: trained, frozen, routed, compared.

    data = recsys.prepare(frame, schema="shop.yaml")
    run = recsys.train(data, composition="conditional", mode="frozen_tower")
    study = recsys.ablate(data, grid={"training_mode": ["end_to_end", "frozen_tower"]}, seeds=3)

These names are for users who write Python (`api.py`, `results.py`); the command line is `pipelines/`. Nothing heavy is
imported before a function is called.

From the top down, each package importing only what is below it: `study` compares many runs and `nightly` is a
scheduled one; `run` is one run; `build.py` makes a ranker of a typed configuration; `artifacts` are its files. The
model is in `composition`, `towers` and `interactions`, its rows in `datasets`, `streaming` and `inspection`, its
learning in `training`, its judgement in `evaluation` and `ablation`, and what a scheduler needs in `scheduling`. Below
are `features` (what a row is), `config` (every knob), `metrics`, `sharding` (TorchRec), `monitoring` (gradient norms,
proofs) and `tracking` (MLflow), and the files that all of them use: errors, files, locks, progress.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.api import Schema, ablate, init, prepare, pretrain, register_composition, register_network, train
    from recsys.results import Data, MixedRuns, Run, Study, Tower

__all__ = [
    "Data",
    "MixedRuns",
    "Run",
    "Schema",
    "Study",
    "Tower",
    "ablate",
    "init",
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
