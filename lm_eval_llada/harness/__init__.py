"""The models as lm-evaluation-harness sees them."""
