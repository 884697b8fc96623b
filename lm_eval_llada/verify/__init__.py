"""Checks of a real checkpoint on the user's own machine: ``lm-eval-llada verify``."""
