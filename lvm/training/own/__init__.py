"""Training by a person's own code: its command, its process, and the files that it writes."""

from pathlib import Path

EXAMPLE = Path(__file__).with_name("example.py")  # a script that knows nothing of this program
