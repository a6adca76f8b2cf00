"""Training: the loop, and all that a batch passes through."""
