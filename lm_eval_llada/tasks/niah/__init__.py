"""Needles in haystacks: samples and scores."""
