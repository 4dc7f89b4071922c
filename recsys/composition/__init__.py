"""How the embedding tower and the interaction network are joined into one ranker.

Sequential, parallel, conditional per user segment, and parallel with conditional. What the two are inside is the
business of `towers` and `interactions`; which of them learns is that of the training mode.
"""
