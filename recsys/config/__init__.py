"""Every knob of a run, typed: one frozen dataclass per group of `conf/`, under the same names.

Where a group offers kinds of things (data, tower, network, composition), each kind has a variant of its own, with the
knobs that it has and no other. Values stand in `conf/` alone, and what a word means in code stands in `recsys.build`;
here are types, ranges and checks. `compose.py` makes a `RunConfig` of the files of `conf/` and overrides.
"""

from recsys.config.ablation import AblationConfig, TuneConfig
from recsys.config.compositions import CompositionConfig
from recsys.config.data import DataConfig, MovielensData, OnlineRetailData, SimulatedData, TableData
from recsys.config.networks import NetworkConfig
from recsys.config.run_config import (
    DailyConfig,
    EvaluationConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainingConfig,
    config_document,
    config_from,
)
from recsys.config.tower import ImportedTowerConfig, TowerConfig, TwoTowerConfig
from recsys.config.training_mode import StageEndConfig, TrainingModeConfig

__all__ = [
    "AblationConfig",
    "CompositionConfig",
    "DailyConfig",
    "DataConfig",
    "EvaluationConfig",
    "ImportedTowerConfig",
    "MovielensData",
    "NetworkConfig",
    "OnlineRetailData",
    "RunConfig",
    "RuntimeConfig",
    "SimulatedData",
    "StageEndConfig",
    "TableData",
    "TowerConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TrainingModeConfig",
    "TuneConfig",
    "TwoTowerConfig",
    "config_document",
    "config_from",
]
