"""One complete typed configuration of a run; variants change a few dotted keys."""
