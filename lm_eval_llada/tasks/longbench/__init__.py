"""LongBench: samples and scores of its 21 data sets."""
