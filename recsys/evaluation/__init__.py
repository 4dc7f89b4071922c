"""How good a ranker is: one pass over a split, its metrics overall and per user segment, and rankings of candidates.

Holds what is measured on a split (predictions, evaluation, ranking in two stages) and the simple models that it stands
beside. What a metric is stands in `metrics/`; how a ranker is built or trained is not known here, and nothing is
written to a tracking store.
"""
