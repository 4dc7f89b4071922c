"""TorchRec's engine, and nowhere else: process groups, sharding plan and wrapping, the inventory of a wrapped ranker,
whole copies of its state, and the gate that holds back the fused kernels' updates.

Nothing here knows what a ranker is for: it sees a module whose named children are its parts. Nor does it know who
learns: `wrap_ranker` is given an update rule for every part's tables.
"""
