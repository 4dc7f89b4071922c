"""How the embedding tower and the interaction network are joined into one ranker (`ranker`).

`sequential`, `parallel`, `conditional` per user segment, and parallel with conditional. On any of them, `nested` says
how, may stand `residual_expert`, `star`, `epnet`, `ppnet` (both of `gate_unit`) or `segment_linear`. `routing` splits a
batch by segment, `branches` is the interface of every composition, `gate_reading` reads what their gates let through,
and `adapter` is the low-rank layer on a frozen tower's output.

Not here: what the two are inside (`towers`, `interactions`), and which of them learns (`training`).
"""
