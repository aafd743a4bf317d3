"""The two packages of this program, by name.

The library does not import its jobs. A registry finds the steps among them, and printed commands
name their scripts.
"""

from pathlib import Path

LIBRARY = "lvm"
JOBS = "tune_jobs"
OWN_PACKAGES = (LIBRARY, JOBS)
STEPS = f"{JOBS}.steps"  # every module in it registers a step
VERSION = "0.1.0"
HOME = Path(__file__).resolve().parents[2]  # the folder that holds both
