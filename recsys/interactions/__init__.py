"""How fields meet: every feature becomes a vector (`fields`), and a crossing network looks for what they say together.

Knows nothing of the embedding tower or of user segments' routes; those are joined in `composition`.
"""
