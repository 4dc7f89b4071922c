"""How parameters learn: modes and stages (what is frozen), optimizers and their contract, the loss, one step, the loop.

The loop yields reports; it logs nothing and writes nothing. What a run must keep to go on later is in `snapshot`; how
that reaches a disk is `artifacts/checkpoint`'s business.
"""
