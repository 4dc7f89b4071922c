"""From encoded Parquet to batches on the device.

`loader.py` is the stream that training and evaluation read. Below it, `storage.py` finds files on a disk or behind a
URI; `parquet.py` reads footers and row groups, huge ones in parts (`row_groups.py`), remote ones ahead of need
(`read_ahead.py`); `rows.py` makes encoded columns of them, checked against the contract (`checks.py`) or encoded from
raw values (`raw_columns.py`); `shuffle.py` computes in which order and on which rank each row comes; `pools.py` decodes
and shuffles in the background; `collate.py` builds batches in reused memory (`memory.py`), packed as they travel
(`packed.py`), and `device.py` copies them to the GPU. Nothing here knows where the rows came from (`datasets`), how
files should be written (`inspection`), or what is computed on them.
"""
