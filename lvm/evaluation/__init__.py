"""Ranks, metrics and gates of a predictor over a stated pool, and the ladder of untrained ones."""
