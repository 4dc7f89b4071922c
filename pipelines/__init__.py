"""Scripts that read like the method: each has `run(config)` and says what it does in the order it does it.

`cli.py` is the command line, `compose.py` turns words and overrides into a checked `RunConfig`.
"""
