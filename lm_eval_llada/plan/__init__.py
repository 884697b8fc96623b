"""What a run will cost, before it runs: ``lm-eval-llada plan``."""
