"""What a run writes to disk and reads back: checkpoints, pre-trained towers, served models.

Every file here is checked by digest before it is deserialised, and no format used here can carry code.
"""
