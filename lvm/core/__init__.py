"""What the words of this program mean: errors, settings, records, metrics, registries."""
