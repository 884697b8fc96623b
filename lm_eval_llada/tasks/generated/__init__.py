"""Sets that are generated at any length, offline, in the manner of published ones; own wording."""
