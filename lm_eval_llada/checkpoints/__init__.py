"""From the name of a checkpoint to its files, its tokenizer and where its numbers come from."""
