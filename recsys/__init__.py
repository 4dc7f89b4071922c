"""Train rankers made of a pre-trained embedding tower and an interaction network, and see where their gradients go.

The model wing (`features`, `datasets`, `streaming`, `towers`, `interactions`, `composition`) says what a batch becomes
on its way to a logit. The run wing (`sharding`, `training`, `monitoring`, `evaluation`, `tracking`, `ablation`,
`scheduling`) says what a run does with any model. `artifacts` keeps what both leave on disk, and `build` turns the
words of a configuration into objects. Imports go down only; `tests/architecture/` holds the table.
"""
