"""Audit a bank of your own in Python, and list what blocks a training.

python examples/audit_a_bank.py [BANK]

BANK is a folder with vectors.npy and keys.npy; without it the bundled sample is audited.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lvm.audit.open import open_material
from lvm.audit.run import run_checks
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
from lvm.data.load import DataRequest


def main(arguments: list[str]) -> int:
    """Print the findings, the worst first; return 3 where something blocks."""
    request = DataRequest(bank=Path(arguments[0]) if arguments else None)
    audit = run_checks(open_material(request, RunConfig(recipe=Recipe())))
    for finding in audit.findings:
        print(f"{finding.severity}: {finding.code}: {finding.seen}")
        print(f"    {finding.next}")
    print(f"{len(audit.results)} checks, {audit.verdict}")
    return 3 if audit.blocking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
