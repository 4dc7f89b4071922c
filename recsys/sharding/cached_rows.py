"""Tables of which a GPU holds a cache alone are refused: nothing here reads or writes them rightly."""

from collections.abc import Sequence
from typing import Any

from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn

from recsys.errors import UsageError


def refuse_cached_rows(kernel: nn.Module, names: Sequence[str]) -> None:
    """Let pass a kernel that holds its tables whole.

    With a cache, the weights are behind what it holds until it is flushed, and what is written to them it does not see:
    a checkpoint, a proof or a load would be wrong without a word.

    Args:
        names: of the kernel's tables.

    Raises:
        UsageError: it has a cache (UVM caching), or is of a kind that has one (a key-value store).
    """
    specs: Any = kernel.embedding_specs if isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen) else None
    if specs is not None and all(spec[2] != EmbeddingLocation.MANAGED_CACHING for spec in specs):
        return
    raise UsageError(
        f"The tables {', '.join(names)} lie behind a cache in a {type(kernel).__name__}, whose weights are not what "
        'the cache holds. Give them compute_kernel="fused", which keeps them whole.'
    )
