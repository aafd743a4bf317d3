"""Repair: new files without the defects that the audit knows how to fix."""

from lvm.audit.repair.run import Repaired, repair

__all__ = ["Repaired", "repair"]
