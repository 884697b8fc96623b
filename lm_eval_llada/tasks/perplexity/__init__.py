"""Perplexity of long texts as tasks: samples and scores."""
