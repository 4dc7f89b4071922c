"""A first schema file for data that nobody has declared yet: looked at, guessed where it has to be, and commented.

`raw_tables.py` finds the files and which of them are one table; `column_profiles.py` and `written_values.py` look at
the columns; `role_words.py` knows what columns are called. Of that, `event_roles.py` and `side_keys.py` tell which
table holds the events and how the others are joined, `first_rules.py` label, splits, queries and segments,
`first_features.py` the features. `first_schema.py` puts it together, and `commented_yaml.py` writes it. The form of
what is written, and its checks, are those of `datasets` and `features`.
"""
