"""Which design is better, and for whom: grids of arms, paired differences with intervals, and the verdict in words.

Holds the statistics of a study and its report. It trains nothing and reads no tracking store: arms come as predictions
and plain figures. The steps are `arms` (what to run) -> `pairing` (were arms of a seed equal but for the grid) ->
`bootstrap` (each arm's metrics on bootstrap samples of the users) -> `comparison` (paired differences with `intervals`)
-> `verdict` and `study_report`. What a metric is stands in `metrics/`; arms are run by whoever calls.
"""
