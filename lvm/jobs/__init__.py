"""The jobs: what drives a run from its flags to its verdict, on top of the views."""
