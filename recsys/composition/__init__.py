"""How the embedding tower and the interaction network are joined into one ranker (`ranker`).

`sequential`, `parallel`, `conditional` per user segment, and parallel with conditional; `routing` splits a batch by
segment, `branches` is the interface of every composition, `adapter` the low-rank layer on a frozen tower's output.

Not here: what the two are inside (`towers`, `interactions`), and which of them learns (`training`).
"""
