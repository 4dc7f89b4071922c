"""The interaction network: every feature becomes a field's vector (`fields`), a crossing combines the fields
(`crossing` is its interface; `cross`, `dot`, `factorisation_machine`, `mask`, `mlp`, `two_streams`), and layers on top
make one vector of them (`network`). `first_order` is the linear path beside it.

Not here: the embedding tower, and how it and the network are joined, per user segment or not (`composition`).
"""
