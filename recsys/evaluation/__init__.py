"""How good a ranker is: one pass over a split, its metrics overall and per user segment, and ranked lists of
candidates.

Holds passes over a split (predictions, evaluation, ranking), predictions on disk, and the two simple rankers that every
ranker is compared with (`baselines`). Not here: what a metric is (`metrics`), differences between rankers (`ablation`),
how a ranker is built or trained; nothing is written to a tracking store.
"""
