"""The pre-trained embedding tower: one variant per way to get its vectors."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recsys.config.knobs import (
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    Width,
    checked_dataclass,
)


@checked_dataclass
class TwoTowerConfig:
    """A tower that is pre-trained here, on the training split; `batch_size` and `epochs` as in `TrainingConfig`.

    `width` is each side's vector, `table_dimension` each id's; `temperature` divides the scores of the softmax.
    """

    kind: Literal["two_tower"]
    name: Name
    width: Width
    table_dimension: Width
    hidden_widths: tuple[Width, ...]
    temperature: PositiveFloat
    batch_size: PositiveInt | None
    epochs: PositiveInt | None
    learning_rate: PositiveFloat
    table_learning_rate: PositiveFloat
    seed: Seed


@checked_dataclass
class ImportedTowerConfig:
    """Vectors made elsewhere, by item id; reduced to `width` numbers by principal components.

    Items without a vector have, by `missing_vectors`, the `mean` of the others, a `zero` vector, one drawn at random
    that is to be `learned`, or what their `attributes` predict: the ids that the schema gives to the item tower.
    """

    kind: Literal["imported"]
    name: Name
    width: Width
    vectors: Path
    id_column: str
    vector_column: str
    missing_vectors: Literal["mean", "zero", "learned", "attributes"]


@checked_dataclass
class ImportedVectorsConfig:
    """Vectors made elsewhere, by item id, for heads of a history tower; reduced to `width` numbers.

    One head reads them as they are, another through a projection of `projection_width` numbers, which starts as the
    first of them; pre-training pulls it back there by `projection_pull` times its squared distance.
    """

    file: Path
    id_column: str
    vector_column: str
    width: Width
    projection_width: Width
    projection_pull: NonNegativeFloat


@checked_dataclass
class HistoryTowerConfig:
    """A tower that reads the user's and the item's events with the candidate in view; see `HistoryTower`.

    It is pre-trained here on the labels of the training split, with a readout of its own (`readout_widths` are the
    hidden widths of its layers); the rest as in `TwoTowerConfig`.

    `event_dropout`, `history_dropout` and `key_dropout` hide, in a training step, so many of the events, of the users'
    whole histories, and of the numbers of an id's key. `key_l2` and `factor_l2` are the weights in pre-training of the
    squares of a row's own keys and factors; `average_decay` is that of pre-training, as `training.average_decay` is the
    ranker's. `frozen` names sources and heads that never learn.
    """

    kind: Literal["history"]
    name: Name
    key_width: Width
    factor_width: Width
    vectors: ImportedVectorsConfig | None
    frozen: tuple[str, ...]
    reads_gaps: bool
    event_dropout: Share
    history_dropout: Share
    key_dropout: Share
    key_l2: NonNegativeFloat
    factor_l2: NonNegativeFloat
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None
    readout_widths: tuple[Width, ...]
    batch_size: PositiveInt | None
    epochs: PositiveInt | None
    learning_rate: PositiveFloat
    table_learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    seed: Seed


@checked_dataclass
class SequenceTowerConfig:
    """A tower that reads the user's items in order, without the candidate; see `SequenceTower`.

    It is pre-trained here to foretell each of them from those before it. A batch has `batch_size` users' sequences and
    `negatives` sampled items for all of them, drawn in proportion to their counts raised to `negative_power` (0: all
    alike). `width` is of the user's and the item's vectors; `blocks` layers have `heads` each.

    `dropout` is of the tower; `id_dropout`, in pre-training alone, of items that are known by their attributes for a
    step: by the other sparse features of the item tower.
    """

    kind: Literal["sequence"]
    name: Name
    width: Width
    blocks: PositiveInt
    heads: PositiveInt
    dropout: Share
    id_dropout: Share
    negatives: PositiveInt
    negative_power: NonNegativeFloat
    batch_size: PositiveInt
    epochs: PositiveInt
    learning_rate: PositiveFloat
    table_learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    seed: Seed


PretrainedTowerConfig = TwoTowerConfig | HistoryTowerConfig | SequenceTowerConfig
"""Those that learn here before the ranker does."""
TowerConfig = Annotated[
    TwoTowerConfig | ImportedTowerConfig | HistoryTowerConfig | SequenceTowerConfig, Field(discriminator="kind")
]
