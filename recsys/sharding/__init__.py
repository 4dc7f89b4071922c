"""TorchRec's engine, and nowhere else: process groups, wrapping, and the one adapter to the fused table kernels.

Nothing here knows what a ranker is for: it sees a module whose named children are its parts.
"""
