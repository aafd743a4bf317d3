"""The audit: what no training can fix, found before any training."""
