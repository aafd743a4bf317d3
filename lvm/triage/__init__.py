"""The triage: a pure tree of decisions, the arms it asks for, and the journal of what happened."""
