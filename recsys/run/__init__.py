"""One run of one ranker: `prepare`, `pretrain`, `train`, `evaluate`, `audit` and `score`, each with
`run(config, ...)`.

`assemble.py` makes model, optimizers and stages, `streams.py` the batches, `session.py` takes the steps, keeps
checkpoints and measures, `record.py` names what goes to MLflow, `folder.py` is what a run leaves on disk. Values are
returned, progress is reported through `Progress`; nothing is printed, and no command line is known here. Comparing
several runs is `recsys/study/`.
"""
