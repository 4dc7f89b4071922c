"""From features to the embedding tables that hold their ids' vectors: one table per vocabulary."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

from recsys.features.contract import FeatureContract
from recsys.features.vocabulary import UNKNOWN_ROW


def table_configs(
    contract: FeatureContract, names: Sequence[str], *, prefix: str, dimension: int
) -> list[EmbeddingBagConfig]:
    """Describe the tables that the features in `names` look up; dense ones among them have none.

    Features that share a vocabulary share its table. A list is the mean of its ids' vectors, zero where it is empty.

    Args:
        prefix: goes before each table's name, which is otherwise its vocabulary's, so that parts of a model differ.
        dimension: width of one id's vector.
    """
    used = [f for f in contract.schema.features if f.name in names and f.is_sparse]
    return [
        EmbeddingBagConfig(
            name=f"{prefix}{table}",
            num_embeddings=contract.table_rows[table],
            embedding_dim=dimension,
            feature_names=[feature.name for feature in used if feature.table == table],
            pooling=PoolingType.MEAN,
            init_fn=start_table,
        )
        for table in dict.fromkeys(feature.table for feature in used)
    ]


def start_table(weight: Tensor) -> None:
    """Fill a table in place with its first values: small and uniform, and zero for the row of unknown ids.

    The bound sqrt(1 / rows) is DLRM's (Naumov et al., 2019). No training row looks up the unknown row, so it would
    keep whatever it started with; zero says nothing about a user or item that nothing is known of.

    Args:
        weight: (rows, D), float; changed in place.
    """
    bound = math.sqrt(1 / len(weight))
    with torch.no_grad():
        weight.uniform_(-bound, bound)
        weight[UNKNOWN_ROW] = 0
