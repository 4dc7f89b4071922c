"""Online Retail II: invoices of an online gift shop -> rows of "will this product be on this customer's invoice?".

`files` reads the transactions in any of their layouts, `events` cleans them, `features` counts what was known before
each invoice, `examples` lists which products each invoice is asked about, `co_purchases` says what goes with what, and
`source` joins them.

Source of the data: Chen, D. (2012), Online Retail II, UCI Machine Learning Repository, doi 10.24432/C5CG6D, CC BY 4.0.
"""

from recsys.datasets.online_retail.retail_source import OnlineRetailSource

__all__ = ["OnlineRetailSource"]
