"""Train rankers made of a pre-trained embedding tower and an interaction network, and see where their gradients go.

The model wing (`features`, `datasets`, `streaming`, `towers`, `interactions`, `composition`) says what a batch becomes
on its way to a logit. The run wing (`sharding`, `training`, `monitoring`, `evaluation`, `tracking`, `ablation`,
`scheduling`) says what a run does with any model. `artifacts` keeps what both leave on disk, and `build` turns the
words of a configuration into objects. Imports go down only; `tests/architecture/` holds the table.
"""

import os

# Arrow's allocator would give memory back to the system 10 ms after it is freed, and a stream of batches would fetch
# fresh pages for every row group: a fifth of its processor time, a half on a busy machine. So it keeps what it has
# needed once. It reads this when pyarrow is loaded, which is after this line wherever `recsys` is imported first.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")
