"""The past of rows counted on Spark, through the same Ibis expressions as on DuckDB, to the same bits.

DuckDB reads the files and hands the events and the rows asked about over as Parquet (`exchange`); Spark
(`spark_engine`) counts, orders and joins them by the code of `recsys.datasets.past`; DuckDB takes the result up again
(`counting`).
What Spark does is whole numbers, decimals and orders; hashes and sums of fractions are made in DuckDB on the way. What
cannot be done so is refused before anything is read (`refusals`).
"""
