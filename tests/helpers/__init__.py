"""What several tests and benchmarks share: toys, plain references, made files."""
