"""The shipped models, one folder each, and the recipe that trained them."""
