"""Every metric once: its name and label, which direction is better, how it is computed, how it is bootstrapped.

A metric is one file (or an entry in the file of its family) that ends in its `Metric`, and its line in `registry`.
Evaluation, recorded names, tables, intervals and verdicts go by the registry. Here are definitions and what they are
computed from; passes over data are in `evaluation/`, differences between arms in `ablation/`.
"""
