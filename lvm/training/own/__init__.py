"""Training by a person's own code: its command, its process, and the files that it writes."""
