"""Where rows come from: raw files -> encoded Parquet that obeys a feature schema.

A source (`online_retail`, `movielens`, `table`, the simulator) reads its own files and hands over raw rows under the
schema's names, each with its split and its day; `source` says exactly what such rows are. `split`, `segments` and
`negatives` are the steps that sources share. `encode` fits vocabularies and scaling on the training split alone and
writes the encoded folder; `encoded` opens one. How the rows reach a model is not known here (`streaming`).
"""
