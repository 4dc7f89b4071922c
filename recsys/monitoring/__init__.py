"""What is watched while a ranker learns: gradient norms per part, the flow audit before the first step, proof that
frozen parts are unchanged, how user segments pull at the shared tower, throughput, cost, and running out of memory.

Everything here looks at a ranker and changes nothing of it. Who learns is decided in `training`; that a figure reaches
MLflow is not this room's business: it returns numbers and documents.
"""
