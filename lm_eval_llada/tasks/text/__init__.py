"""Texts that samples are made of, and where they come from."""
