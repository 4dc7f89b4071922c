"""Where rows come from: raw files -> encoded Parquet that obeys a feature schema.

A source (`table`, `online_retail`, `movielens`, the simulator) reads its own files and hands over raw rows under the
schema's names, each with its split and its day; `source` defines such rows exactly. The `table_*` files are the source
for a user's own files, by the `table:` block of the schema (`table_layout`). `split`, `segments`, `negatives` and
`history_features` are the steps that sources share. `staging` cleans and checks rows, `fitting` fits vocabularies and
scaling on the training split alone, `encode` and `partitions` write the encoded folder, and `encoded` opens one. How
the rows reach a model is not known here (`streaming`).
"""
