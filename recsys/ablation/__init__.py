"""Which design is better, and for whom: grids of arms, paired differences with intervals, and the verdict in words.

Holds the statistics of a study and its report. It trains nothing and reads no tracking store: arms come as stored
predictions and plain figures. The steps are `arms` (what to run) -> `resampling` (each arm measured on resampled
users) -> `comparison` (paired differences) -> `verdict`, `report`, `figures`.
"""
