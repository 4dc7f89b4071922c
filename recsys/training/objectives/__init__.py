"""What a ranker minimises, one loss a file: the log loss of the label, of every threshold of a graded label, or of the
choice among a query's candidates.

Each takes the unwrapped ranker and a batch, and returns a scalar, which over several processes averages to the loss of
all their rows. Several members of a head have a loss of their own
each, and their mean is the ranker's.
"""
