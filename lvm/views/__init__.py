"""What a person sees of a run. A view reads the run's state and decides nothing."""
