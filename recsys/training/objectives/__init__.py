"""What a ranker minimises, one loss a file: the log loss of the label, of every threshold of a graded label, or of the
choice among a query's candidates.

Each takes the unwrapped ranker and a batch, and returns a scalar. Several members of a head have a loss of their own
each, and their mean is the ranker's.
"""
