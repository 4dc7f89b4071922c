"""Runs that nobody starts by hand: one day's stages, many days in order, what they checked, decided and told.

`day` does one date: prepare, check, pre-train, train, compare with the champion, promote or not; safe to start twice.
`golden_rows` asks whether a model serves what was trained, `champion_comparison` and `champion_decay` measure it beside
the champion, and `promote` writes down what follows, and takes it back.
"""
