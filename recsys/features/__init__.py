"""What a row is: the contract between Parquet columns and tensors.

Holds the declared schema (`schema`, `policy`, and the checker of declarations, `declaration`), what was fitted on the
training split (`contract`, `vocabulary`, `scaling`), the encoding of raw values, which embedding tables there are
(`tables`), and the batch that a model sees. Not here: where rows come from (`datasets`), how they reach the device
(`streaming`).
"""
