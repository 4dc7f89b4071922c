"""Online Retail II: invoices of an online gift shop -> rows of "will this product be on this customer's invoice?".

`transactions` reads them in any of the publisher's layouts, `events` cleans them, `features` computes what was known
before each invoice, `examples` lists the products of each invoice and the sampled negatives, `co_purchases` counts
which products are bought together, and `retail_source` joins all of it.

Source of the data: Chen, D. (2012), Online Retail II, UCI Machine Learning Repository, doi 10.24432/C5CG6D, CC BY 4.0.
"""

from recsys.datasets.online_retail.retail_source import OnlineRetailSource

__all__ = ["OnlineRetailSource"]
