"""Pre-trained embeddings: the tower's module (`embedding`), the loss that pre-trains one here (`pretraining`), and the
import of vectors made elsewhere (`imported`, `vector_files`); `artifact` is a tower outside of any module.

Not here: how a tower lies on disk (`artifacts/pretrained_tower.py`), and how it is joined with the interaction network
(`composition`).
"""
