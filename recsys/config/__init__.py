"""Every knob of a run, typed: one frozen dataclass per group of `conf/`, under the same names.

Where a group offers kinds of things (data, tower, network, composition), each kind has a variant of its own, with the
knobs that it has and no other. Values stand in `conf/` alone, and what a word means in code stands in `recsys.build`;
here are types, ranges and checks. `compose.py` makes a `RunConfig` of the files of `conf/` and overrides.
"""

from recsys.config.ablation import AblationConfig, TuneConfig
from recsys.config.compositions import COMPOSITIONS, CompositionConfig
from recsys.config.daily_run import (
    CheckLimits,
    ChecksConfig,
    DailyConfig,
    DailyStudyConfig,
    HooksConfig,
    PromotionConfig,
)
from recsys.config.data import DataConfig, SimulatedData, TableData
from recsys.config.knobs import checked_dataclass
from recsys.config.networks import NETWORKS, NetworkConfig
from recsys.config.recorded import with_own_knobs
from recsys.config.run_config import (
    KINDS,
    EvaluationConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainingConfig,
    config_document,
    config_from,
    register_variant,
)
from recsys.config.sharding import ClusterConfig, ShardingConfig, TableShardingConfig
from recsys.config.tower import (
    HistoryTowerConfig,
    ImportedTowerConfig,
    PretrainedTowerConfig,
    SequenceTowerConfig,
    TowerConfig,
    TwoTowerConfig,
)
from recsys.config.training_mode import MaxDriftConfig, StageEndConfig, TrainingModeConfig

__all__ = [
    "COMPOSITIONS",
    "KINDS",
    "NETWORKS",
    "AblationConfig",
    "CheckLimits",
    "ChecksConfig",
    "ClusterConfig",
    "CompositionConfig",
    "DailyConfig",
    "DailyStudyConfig",
    "DataConfig",
    "EvaluationConfig",
    "HistoryTowerConfig",
    "HooksConfig",
    "ImportedTowerConfig",
    "MaxDriftConfig",
    "NetworkConfig",
    "PretrainedTowerConfig",
    "PromotionConfig",
    "RunConfig",
    "RuntimeConfig",
    "SequenceTowerConfig",
    "ShardingConfig",
    "SimulatedData",
    "StageEndConfig",
    "TableData",
    "TableShardingConfig",
    "TowerConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TrainingModeConfig",
    "TuneConfig",
    "TwoTowerConfig",
    "checked_dataclass",
    "config_document",
    "config_from",
    "register_variant",
    "with_own_knobs",
]
