"""How good a ranker is: pointwise metrics, the same per user segment, and the ranking of whole candidate lists.

Holds the definitions of every figure that is reported, and the one pass over a split that they come from. It does not
know how a ranker is built or trained, and it writes to no tracking store.
"""
