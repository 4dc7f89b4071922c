"""The command line: one file per command, which parses, calls `recsys.run`, `recsys.study` or another package, and
prints.

`cli.py` reads the command line and returns the exit code, `commands.py` is the table of commands, `console.py` prints,
`result_tables.py` has the tables that several commands print, `output.py` handles a standard output that is closed or
full. No computation is here, and nothing for users who write Python: that is `recsys`.
"""
