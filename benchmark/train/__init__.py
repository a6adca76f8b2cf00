"""Training: the loop, and every stage that a batch passes through."""
