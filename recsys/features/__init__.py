"""What a row is: the contract between Parquet columns and tensors.

Holds the declared schema and the checker of declarations (`declaration`), what was fitted on the training split
(vocabularies, scaling), the encoding of single values, and the batch that a model sees. It does not know where rows
come from (`datasets`) or how they travel (`streaming`).
"""
