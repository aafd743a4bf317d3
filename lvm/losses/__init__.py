"""Losses as pure functions of embeddings: no model, no process group, no state."""
