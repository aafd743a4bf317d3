"""What every part of the program shares: errors, settings, records, metrics, registries."""
