"""The command line: one file a command, which parses, calls `recsys.run`, `recsys.study` or another room, and prints.

`cli.py` reads the words and ends with an exit code, `commands.py` is the table of commands, `console.py` prints,
`output.py` copes with an output that is closed or full. For who writes Python there is `recsys`.
"""
