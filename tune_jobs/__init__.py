"""The jobs a person starts: the triage, one full training, and the steps of the tree."""
