"""Where rows come from: raw files -> encoded Parquet that obeys a feature schema.

A source (`table`, the simulator) reads its own files and hands over raw rows under the schema's names, each with its
split and its day; `source` defines such rows exactly. A data set is a schema file: its `table:` block declares events,
side tables, the past, negatives and candidates (`table_layout`, `declared_*`), and one engine computes them. Only
readers of publishers' archives know a data set (`archives`). `staging` cleans and checks rows, `fitting` fits
vocabularies and scaling on the training split alone, `encode` and `partitions` write the encoded folder, and `encoded`
opens one. How the rows reach a model is not known here (`streaming`).

`schema_inference` writes a first schema for files that nobody has declared yet (`recsys init`).
"""
