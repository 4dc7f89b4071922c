"""Many runs compared: `plan.py` says which arms there are, `tuning.py` tries rates for each condition, `execute.py`
trains the arms that have not finished, several at once in `workers.py`; `finished.py` reads them back, `ablate.py`
compares them and records the study with its `report.py`. `outlook.py` says beforehand what would run and for how long.

The statistics (pairing, bootstrap, verdict) are `recsys/ablation/`; one run alone is `recsys/run/`.
"""
