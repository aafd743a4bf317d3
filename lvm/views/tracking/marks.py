"""A record in the run folder of what a store already holds: it only saves work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lvm.core.files import write_json
from lvm.core.outside import parse_json
from lvm.core.plain_json import Json

STATE_FILE = "mlflow.json"
SHARE_UNSAVED = 0.1  # of all marks: how many runs a kill may cause to be written again


class Marks:
    """Fingerprints of what was written, by the key of a view; equal ones are not written again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FILE
        self._done: dict[str, str] = {}  # values
        self._kept: dict[str, str] = {}  # models
        self._num_unsaved = 0

    def load(self, runs: Mapping[str, str]) -> None:
        """Read the marks of the runs (key -> id) that the store still holds."""
        try:
            state = parse_json(self._path.read_text(encoding="utf-8"))
            same = {key for key, run in state["runs"].items() if runs.get(key) == run}
            self._done = {k: v for k, v in state["done"].items() if k in same}
            self._kept = {k: v for k, v in state.get("models", {}).items() if k in same}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            self._done, self._kept = {}, {}

    def has_values(self, key: str, mark: str) -> bool:
        """Whether exactly these values of a view were written."""
        return self._done.get(key) == mark

    def has_model(self, key: str, mark: str) -> bool:
        """Whether this model of a view was kept."""
        return self._kept.get(key) == mark

    def values_written(self, key: str, mark: str) -> None:
        """Note that the values of a view were written."""
        self._done[key] = mark
        self._num_unsaved += 1

    def model_kept(self, key: str, mark: str) -> None:
        """Note that the model of a view was kept."""
        self._kept[key] = mark
        self._num_unsaved += 1

    @property
    def due(self) -> bool:
        """Whether enough is new to save; so the file is written only a few times."""
        return self._num_unsaved > SHARE_UNSAVED * len(self._done)

    def save(self, about: Mapping[str, Json]) -> None:
        """Write all marks, and the store and runs they are for, if any is new."""
        if not self._num_unsaved:
            return
        write_json(self._path, {**about, "done": self._done, "models": self._kept})
        self._num_unsaved = 0
