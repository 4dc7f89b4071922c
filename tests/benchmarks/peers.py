"""Other libraries reading the rows that `streaming.py` makes, each as its own documentation has its users do it.

`streaming.py` runs them beside the project's stream; this file only says how. Every peer gets the same files, the
needed columns, batches of the same size and as many workers as the stream has threads, and yields the rows of each
batch. A peer reads in file order where it can, which costs it the least. One that cannot take lists of unequal length
reads the rows without their two list columns, and its name says so.

The peers belong to the development environment. One that is not installed is left out, and `absent` says so with the
command that adds it.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

Peer = Callable[[Path, argparse.Namespace], Iterator[int]]

BATCH_SIZE = 8192
# In the files, and no feature: the project's stream does not read them either.
_UNREAD = {"time", "user_key"}


def hugging_face(root: Path, tensors: bool, lists: bool) -> Iterator[int]:
    """A streamed data set in this process, as Arrow tables or as a dictionary of tensors."""
    with tempfile.TemporaryDirectory() as cache:
        # Read when the library is imported: it asks no network, and leaves nothing behind.
        os.environ.update(HF_HOME=cache, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        from datasets import load_dataset

        columns = _columns(root, lists)
        rows = load_dataset("parquet", data_files=_files(root), split="train", streaming=True, columns=columns)
        for batch in rows.with_format("torch" if tensors else "arrow").iter(batch_size=BATCH_SIZE):
            yield len(batch["label"])


def torch_rechub(root: Path, workers: int) -> Iterator[int]:
    """`ParquetIterableDataset`: files are shared out among worker processes, and every column becomes float32."""
    from torch_rechub.data.dataset import ParquetIterableDataset

    rows = ParquetIterableDataset(_files(root), columns=_columns(root, lists=False), batch_size=BATCH_SIZE)
    for batch in DataLoader(rows, batch_size=None, num_workers=workers):
        yield len(batch["label"])


def pandas_rows(root: Path, workers: int) -> Iterator[int]:
    """All rows in memory; worker processes pick them one by one and stack them into batches."""
    rows = TensorDataset(*_pandas_tensors(root))
    for batch in DataLoader(rows, batch_size=BATCH_SIZE, shuffle=True, num_workers=workers):
        yield len(batch[-1])


def pandas_batches(root: Path) -> Iterator[int]:
    """The careful variant: all rows in memory, a batch is picked by one index, in this process."""
    rows = TensorDataset(*_pandas_tensors(root))
    batches = BatchSampler(RandomSampler(rows), BATCH_SIZE, drop_last=False)
    for batch in DataLoader(rows, sampler=batches, batch_size=None):
        yield len(batch[-1])


_KNOWN: dict[str, tuple[str, Peer]] = {
    "HuggingFace, Arrow tables": ("datasets", lambda root, options: hugging_face(root, tensors=False, lists=True)),
    "HuggingFace, tensors": ("datasets", lambda root, options: hugging_face(root, tensors=True, lists=True)),
    "HuggingFace, tensors, no lists": ("datasets", lambda root, options: hugging_face(root, tensors=True, lists=False)),
    "torch-rechub, no lists": ("torch_rechub", lambda root, options: torch_rechub(root, options.cores)),
    "pandas, row by row": ("pandas", lambda root, options: pandas_rows(root, options.cores)),
    "pandas, batch by batch": ("pandas", lambda root, options: pandas_batches(root)),
}
_PACKAGES = {"datasets": "datasets", "torch_rechub": "torch-rechub", "pandas": "pandas"}

PEERS: dict[str, Peer] = {name: peer for name, (module, peer) in _KNOWN.items() if find_spec(module)}
"""The installed peers: each reads the files under a folder once and yields the rows of each batch."""


def absent() -> list[str]:
    """Say which peers are not installed, and how to add each."""
    return [
        f"{package} is not installed and was left out; `pip install {package}` adds it."
        for module, package in _PACKAGES.items()
        if not find_spec(module)
    ]


def _files(root: Path) -> list[str]:
    return [str(path) for path in sorted(root.rglob("*.parquet"))]


def _columns(root: Path, lists: bool) -> list[str]:
    fields = pq.read_schema(_files(root)[0])
    return [field.name for field in fields if field.name not in _UNREAD and (lists or not pa.types.is_list(field.type))]


def _pandas_tensors(root: Path) -> list[torch.Tensor]:
    """Dense matrix, id matrix, each list column padded and its lengths, segment, label."""
    import pandas as pd

    schema = pq.read_schema(_files(root)[0])
    frame = pd.concat([pd.read_parquet(file, columns=_columns(root, lists=True)) for file in _files(root)])
    dense = [field.name for field in schema if field.type == pa.float32() and field.name != "label"]
    ids = [field.name for field in schema if field.type == pa.int32()]
    arrays = [frame[dense].to_numpy(np.float32), frame[ids].to_numpy(np.int64)]
    for name in (field.name for field in schema if pa.types.is_list(field.type)):
        lengths = frame[name].str.len().to_numpy(np.int64)
        padded = np.zeros((len(frame), lengths.max(initial=1)), np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(frame[name].to_numpy())
        arrays += [padded, lengths]
    arrays += [frame["segment"].to_numpy(), frame["label"].to_numpy()]
    # What pandas hands out is for reading only, and a tensor is not: such arrays are copied.
    return [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays]
