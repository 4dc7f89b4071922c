"""The formats in which results are written to disk and read back: checkpoints, pre-trained towers, served models, and
the scoring of raw rows with a served one.

Every file is checked by digest before it is deserialised, and no format used here can carry code. Not here: which
folder a run writes them to (`run/folder.py`), and prepared rows (`datasets`).
"""
