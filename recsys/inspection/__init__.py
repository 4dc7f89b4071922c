"""What rows on disk hold: any Parquet files as the loader sees them, and prepared rows as a user should.

`footers.py` collects the facts of Parquet files from their footers; `advice.py` plans an epoch of the loader, and
writes a sample of the rows in other row groups and codecs to measure what each gains. `prepared_rows.py` tells what
came out of a preparation, in the figures of `summaries.py`: `single_feature.py` measures how well each feature alone
separates the labels, and `findings.py` names what stands out. `day_checks.py` holds a newest day against the weeks
before it, by `day_profiles.py` and `dense_drift.py`; `raw_checks.py` judges counts of its raw events, and
`check_results.py` holds what a check returns. Nothing here reads rows for training (`streaming`), changes files, or
prints.
"""
