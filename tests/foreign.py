"""The example of docs/your-model.md, as a person would copy it into a file."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your-model.md"


def example() -> str:
    """Return the file that the page shows."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return code
