"""What Parquet files hold, what the loader would do with them, and which way of writing them would be read faster.

`footers.py` collects the facts from the footers; `advice.py` plans an epoch of the loader, and writes a sample of the
rows in other row groups and codecs to measure what each gains. Nothing here reads rows for training (`streaming`),
changes files, or prints.
"""
