"""The two packages of this program, by name.

The library does not import its jobs. It finds the steps among them, as a registry does, and the
scripts that a person types.
"""

LIBRARY = "lvm"
JOBS = "tune_jobs"
OWN_PACKAGES = (LIBRARY, JOBS)
STEPS = f"{JOBS}.steps"  # every module in it registers a step
