"""What is observed while a ranker learns: gradient norms per part, each user segment's share of the tower's gradient,
the flow audit before the first step, the proof that frozen parts are unchanged, throughput, cost, and running out of
memory.

Everything here reads a ranker and changes nothing of it. Which parameters learn is decided in `training`; the numbers
and documents that are returned here go to MLflow elsewhere (`run`, `tracking`).
"""
