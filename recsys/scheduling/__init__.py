"""What any scheduler needs of a run: is it done, is another process doing it, may it start, may its model take over.

`stage` runs a piece of work once, under a key of all that its output depends on, `code_version` is the code's part of
such a key, `window` says which days a scheduled run trains on, `promotion` decides between challenger and champion and
`champion_file` remembers it.
There is no scheduler here; a scheduled run is `recsys.nightly`.
"""
