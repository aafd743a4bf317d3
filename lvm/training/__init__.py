"""Training of one arm: negatives, loop, checkpoints, workers."""
