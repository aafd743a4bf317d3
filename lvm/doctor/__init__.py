"""Problems that can be found before a run: on this machine, in a cluster file, on a cluster."""
