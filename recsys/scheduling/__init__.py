"""Runs that nobody starts by hand: stages that are safe to start twice, windows of days, and promotion.

Holds what any scheduler needs of a run (is it done, is it running, may it start, may its model take over) and no
scheduler: those are thin files over the commands.
"""
