"""One run of one ranker: `prepare`, `pretrain`, `train`, `evaluate`, `audit` and `score`, each with `run(config, ...)`.

Making it: `assemble.py` (model, optimizers, stages), `streams.py` (batches), `fitted_baselines.py` (the constant and
the logistic regression beside every ranker), `frames.py` and `raw_copy.py` (DataFrames and URIs as files). While it
lasts: `session.py` takes the steps, keeps checkpoints and measures; `stopping.py` ends it at a signal. What it leaves:
`folder.py` (files), `record.py` (MLflow), `curves.py`, `evidence.py` and `provenance.py` (proofs, and what makes two
runs a pair), `serving.py` (the served model). `result_keys.py` says what a result depends on: a finished one is used
again.

Values are returned and progress is reported through `Progress`; nothing is printed, and no command line is known here.
Comparing several runs is `recsys/study/`.
"""
