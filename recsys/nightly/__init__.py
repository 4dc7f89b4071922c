"""Runs that nobody starts by hand: one day's stages, many days in order, what they checked, decided and told.

`day` does one date: prepare, check, pre-train, train, compare with the champion, promote or not; safe to start twice.
"""
