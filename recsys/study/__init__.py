"""Many runs compared: `plan.py` says which arms there are, `execute.py` trains those that have not finished, several
at once in `workers.py`; `finished.py` reads them back, `ablate.py` compares them and records the study.

The statistics (pairing, bootstrap, verdict, report) are `recsys/ablation/`; one run alone is `recsys/run/`.
"""
