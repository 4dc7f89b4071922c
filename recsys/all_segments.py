"""The name under which figures of all rows stand among those of the user segments."""

ALL = "all"
"""Rows of every segment together, in results, metric names and charts; so no segment may have this name."""
