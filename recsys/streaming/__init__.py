"""From encoded Parquet to batches on the device.

`parquet.py` reads footers and row groups, `checks.py` refuses values that break the contract, `shuffle.py` says in
which order and on which rank each row comes, `pools.py` decodes and shuffles ahead of need, `collate.py` makes
batches, `device.py` carries them over, and `loader.py` is the stream that the pipelines use. Nothing here knows where
the rows came from (`datasets`) or what is computed on them.
"""
