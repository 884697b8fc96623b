"""Comparison with others' programs: their files as modules, answers to score, pairs that differ."""
