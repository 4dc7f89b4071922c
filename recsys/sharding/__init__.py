"""TorchRec's engine, and nowhere else: process groups, sharding plan and wrapping, the inventory of a wrapped ranker's
tables, whole copies of its state, exact gradients of table rows, and the gate that holds back the fused kernels'
updates.

Nothing here knows what a ranker is for: it sees a module whose named children are its parts. Nor does it know which
parameters learn: `wrap_ranker` is given an update rule for every part's tables.
"""
