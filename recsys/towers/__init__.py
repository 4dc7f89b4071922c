"""Pre-trained embeddings: the tower's module (`embedding`), its pre-training on clicks (`pretraining`), and the import
of vectors made elsewhere (`imported`, `vector_files`); `artifact` is a tower outside of any module, `row_digests` finds
rows for which a tower's output is the same.

Not here: how a tower lies on disk (`artifacts/pretrained_tower.py`), and how it is joined with the interaction network
(`composition`).
"""
