"""Pre-trained embeddings: the tower, the objective that pre-trains one here, and the import of vectors made elsewhere.

How a tower lies on disk is the business of `artifacts/pretrained_tower.py`; how it meets the interaction network that
of `composition`.
"""
