"""The pre-trained embedding tower: one variant per way to get its vectors."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recsys.config.knobs import Name, PositiveFloat, PositiveInt, Seed, Width, checked_dataclass


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


TowerConfig = Annotated[TwoTowerConfig | ImportedTowerConfig, Field(discriminator="kind")]
