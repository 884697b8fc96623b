"""Post-training for long context: document streams, packing, and the trainer."""
