"""How parameters learn: modes and stages (what is frozen), optimizers and the contract of which one steps what, batch
size and epochs from the number of rows (`budget`), the losses (`objectives`), one step, the loop, and a frozen tower's
cached outputs.

The loop yields reports; it logs nothing and writes nothing. The state that a run resumes from is in `snapshot`; how it
reaches a disk is `artifacts/checkpoint`.
"""
