"""Perplexity against context."""
