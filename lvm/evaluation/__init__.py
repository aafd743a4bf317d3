"""Ranks, retrieval metrics and latency of a predictor over a stated pool."""
