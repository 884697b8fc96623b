"""From one request to one answer, on any number of ranks, through kills."""
