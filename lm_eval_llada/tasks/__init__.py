"""The benchmarks: how samples are made and scored, a folder each, and what they share."""
