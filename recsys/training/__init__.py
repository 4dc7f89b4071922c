"""How parameters learn: which part learns, who steps it at what rate, the loss, and the loop that joins them.

The loop yields reports; it logs nothing and writes nothing. What a run must keep to go on later is in `snapshot`; how
that reaches a disk is `artifacts/checkpoint`'s business.
"""
