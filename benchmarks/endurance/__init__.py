"""What long runs have to stand: kills, many inputs, many requests."""
